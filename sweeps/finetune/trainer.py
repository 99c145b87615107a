"""One optimizer update: accumulate, reduce once, clip, mask, step."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from gmt_core.half_fine_tuning import HalfFineTuning
from gmt_core.masker import GradientMasker
from gmt_core.methods import Method, build_method
from gmt_core.random_mask import RandomMask
from sweeps.finetune.divergence import DivergedError
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.loss import TokenLoss, chunked_from
from sweeps.finetune.memory_check import reduces_each
from sweeps.finetune.model import computing_dtype, prepare_training
from sweeps.finetune.optimizers import build_optimizer, learning_rate
from sweeps.finetune.order import Rows, mixed_seed, share
from sweeps.finetune.packing import attending, choose_attention
from sweeps.finetune.parallel import Fill, Parallel, Replicated, Sharded, total_norm
from sweeps.finetune.process_group import Group
from sweeps.finetune.run_costs import Throughput, trained_share
from sweeps.finetune.tokenized_data import TrainingData


@final
class Trainer:
    """Trains `model` in place on `data`; every rank of `group` holds an equal model."""

    def __init__(
        self,
        config: FinetuneConfig,
        model: torch.nn.Module,
        data: TrainingData,
        group: Group,
        device: torch.device,
        fill: Fill | None = None,
    ) -> None:
        """Attach optimizer and masker to `model`, which is on `device` or made there by `fill`."""
        self._config, self._data, self._group, self._device = config, data, group, device
        self._steps = config.steps(group.size)
        self._batch = config.effective_batch(group.size)
        self._micro = config.forward_batch(group.size)
        self._order = data.order(config.seed)
        computes_in = computing_dtype(config.model.dtype, device)
        dtype = computes_in or next(model.parameters()).dtype
        self._throughput = Throughput.of(model, dtype, device, group.size)
        prepare_training(model, config.model)
        self._model = model.train()
        loss = TokenLoss(model, computes_in)
        self.parallel: Parallel
        if config.parallel == "fsdp" and group.size > 1:
            each = group.tell(reduces_each(config, group.size, device.type))
            self.parallel = Sharded(loss, group, fill, reduces_each=each)
        else:
            self.parallel = Replicated(loss, group, device)
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._parameters = [parameter for _, parameter in named]
        self._optimizer = build_optimizer(config, named)
        method = _method(config)
        self.trained_share = trained_share(model, method, config.method.mask_ratio)
        self._masks = method.name != "sft"
        # Weight decay must not move what a method freezes.
        freezes = config.method.name in ("hft", "shira") and config.weight_decay > 0
        masker = GradientMasker(
            method,
            mode="update" if freezes else "gradient",
            statistics_every=config.statistics_every if self._masks else 0,
        )
        self._masker = masker.attach(self._optimizer, named)
        # Last: both run the model, whose sharded parameters are only seen before. In the precision
        # of training, since flash attention refuses float32.
        self._attention: str | None = None
        with torch.autocast(device.type, computes_in, enabled=computes_in is not None):
            if config.data.packing:
                self._attention = choose_attention(model, max(data.lengths), config.model.compile)
            loss.chunked_from = chunked_from(model, config.chunked_loss)

    def update(self, update: int) -> dict[str, float]:
        """Run the 0-based `update` and return its metrics; DivergedError leaves the model
        unchanged."""
        started = time.perf_counter()
        batch = self._order.batch(update, self._batch)
        self._seed(update)
        loss = self._accumulate(batch)
        norm = total_norm(self._parameters)
        mean_loss, grad_norm = torch.stack([loss, norm.to(loss)]).tolist()
        if not (math.isfinite(mean_loss) and math.isfinite(grad_norm)):
            raise DivergedError(
                f"update {update + 1}: the loss is {mean_loss:g} and the gradient norm "
                f"{grad_norm:g} on examples {batch[:8]}{'...' if len(batch) > 8 else ''}"
            )
        rate = self._step(update, norm)
        seconds = time.perf_counter() - started
        lengths = [self._data.lengths[index] for index in batch]
        return {
            "train/loss": mean_loss,
            "train/learning_rate": rate,
            "train/grad_norm": grad_norm,
            **self._throughput.metrics(lengths, self._data.targets(batch), seconds),
            **self._mask_metrics(update),
        }

    def check_loss(self, update: int) -> None:
        """Compute the loss on part of the batch of the 0-based `update`, without an update.

        Raises:
            DivergedError: on every rank, if the loss is not finite.
        """
        mine = self._share(self._order.batch(update, self._batch))
        with torch.no_grad(), attending(self._model, self._attention):
            loss = self._group.sum_(self._loss(mine[0]))
        if not math.isfinite(found := loss.item()):
            raise DivergedError(f"the loss is {found:g}")

    def _mask_metrics(self, update: int) -> dict[str, float]:
        every, statistics = self._config.statistics_every, self._masker.statistics
        if not self._masks:
            return {"gmt/kept_fraction": 1.0}  # nothing to measure
        if statistics is None or update % every:
            return {}
        return statistics.metrics()

    def states(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """The states of model, optimizer and masker; if the model is sharded, this rank's part."""
        model, optimizer = self.parallel.training_state(self._optimizer)
        return model, optimizer, self._masker.state_dict()

    def shards(self) -> dict[str, Any]:
        """This rank's parts of model and optimizer, under the names used in a checkpoint."""
        model, optimizer, _ = self.states()
        return {"model": model, "optimizer": optimizer}

    def restore(
        self, model: dict[str, Any], optimizer: dict[str, Any], masker: dict[str, Any]
    ) -> None:
        """Continue from these three states; settings such as weight decay stay this run's own."""
        own = [{**group} for group in self._optimizer.param_groups]
        self.parallel.restore(self._optimizer, (model, optimizer))
        for group, settings in zip(self._optimizer.param_groups, own, strict=True):
            group |= {name: value for name, value in settings.items() if name != "params"}
        self._masker.load_state_dict(masker)

    def _accumulate(self, batch: Sequence[int]) -> Tensor:
        """Accumulate the gradient of the mean loss per target token in `.grad`; return that loss.

        Tokens are counted over the whole effective batch and all ranks, so neither the
        accumulation interval nor the number of workers changes the gradient. Every rank knows the
        whole batch, so counting needs no communication.
        """
        targets, mine = self._data.targets(batch), self._share(batch)
        total = torch.zeros((), device=self._device)
        for number, rows in enumerate(mine):
            reducing = self.parallel.reducing(number == len(mine) - 1)
            with reducing, attending(self._model, self._attention):
                loss = self._loss(rows) / targets
                self.parallel.backward(loss)
            total = total + loss.detach()
        return self._group.sum_(total)

    def _share(self, batch: Sequence[int]) -> list[Rows]:
        """This rank's micro-batches of a batch."""
        return share(
            batch,
            self._data.lengths,
            micro=self._micro,
            rank=self._group.rank,
            workers=self._group.size,
            pack_to=self._data.pack_to,
            unpadded=self._attention is not None,
        )

    def _loss(self, rows: Rows) -> Tensor:
        """The summed loss of one micro-batch."""
        micro = self._data.micro_batch(rows, unpadded=self._attention is not None)
        loss: Tensor = self.parallel.loss(*micro.to(self._device))
        return loss

    def _step(self, update: int, norm: Tensor) -> float:
        """Clip the dense gradient, then mask and step; return the learning rate."""
        config = self._config
        if config.clip_norm is not None:
            clip_grads_with_norm_(self._parameters, config.clip_norm, norm)
        rate = learning_rate(
            update,
            steps=self._steps,
            peak=config.learning_rate,
            warmup_ratio=config.warmup_ratio,
            schedule=config.schedule,
        )
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return rate

    def _seed(self, update: int) -> None:
        """Make random states (dropout) depend on seed, update and rank, so resuming is exact."""
        seed = mixed_seed(self._config.seed, update, self._group.rank)
        torch.default_generator.manual_seed(seed)
        if self._device.type == "cuda":
            torch.cuda.manual_seed(seed)


def _method(config: FinetuneConfig) -> Method:
    method = config.method
    # A separate seed, so that the random mask is independent of the data order.
    seed = mixed_seed(config.seed, 1)
    if method.name == "shira":
        return RandomMask(method.mask_ratio, seed, hold="training")
    if method.name == "hft":
        return HalfFineTuning(seed, halve_embeddings=method.hft.embeddings == "halved")
    name = "sft" if method.name == "lora" else method.name
    return build_method(name, method.mask_ratio, scope=method.scope, seed=seed)
