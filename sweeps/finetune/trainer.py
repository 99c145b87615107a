"""One optimizer update: accumulate, reduce once, clip, mask, step."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from gmt_core.masker import GradientMasker
from gmt_core.methods import Method, build_method
from sweeps.finetune.config import FinetuneConfig
from sweeps.finetune.data import TrainingData
from sweeps.finetune.group import Group
from sweeps.finetune.loss import TokenLoss
from sweeps.finetune.order import DataOrder, mixed_seed, share
from sweeps.finetune.schedule import learning_rate


class DivergedError(ArithmeticError):
    """A loss or gradient that is not finite; nothing was updated with it."""


@final
class Trainer:
    """Trains `model` in place on `data`; every rank of `group` holds an equal one."""

    def __init__(
        self,
        config: FinetuneConfig,
        model: torch.nn.Module,
        data: TrainingData,
        group: Group,
        device: torch.device,
    ) -> None:
        """Attach optimizer and masker to `model`, which is on `device` already."""
        self._config, self._data, self._group, self._device = config, data, group, device
        self._steps = config.steps(group.size)
        self._batch = config.effective_batch(group.size)
        self._micro = config.micro_batch(group.size)
        self._order = DataOrder(len(data), config.seed)
        self._model = model.train()
        self._loss = _parallel(TokenLoss(model), group, device)
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._parameters = [parameter for _, parameter in named]
        self._optimizer = torch.optim.AdamW(
            named, lr=0.0, betas=config.betas, weight_decay=config.weight_decay, fused=True
        )
        self._masker = GradientMasker(_method(config), statistics_every=1).attach(self._optimizer)

    def update(self, update: int) -> dict[str, float]:
        """Do 0-based `update`, return its metrics; DivergedError before anything is changed."""
        started = time.perf_counter()
        batch = self._order.batch(update, self._batch)
        self._seed(update)
        loss = self._accumulate(batch)
        norm = get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        mean_loss, grad_norm = torch.stack([loss, norm.to(loss)]).tolist()
        if not (math.isfinite(mean_loss) and math.isfinite(grad_norm)):
            raise DivergedError(
                f"update {update + 1}: the loss is {mean_loss:g} and the gradient norm "
                f"{grad_norm:g} on examples {batch[:8]}{'...' if len(batch) > 8 else ''}"
            )
        rate = self._step(update, norm)
        seconds = time.perf_counter() - started
        statistics = self._masker.statistics
        return {
            "train/loss": mean_loss,
            "train/learning_rate": rate,
            "train/grad_norm": grad_norm,
            "train/tokens_per_second": self._data.size(batch) / seconds,
            **(statistics.metrics() if statistics is not None else {}),
        }

    def optimizer_state(self) -> dict[str, Any]:
        """The optimizer's state."""
        return self._optimizer.state_dict()

    def masker_state(self) -> dict[str, Any]:
        """The masker's state."""
        return self._masker.state_dict()

    def restore(
        self, model: Mapping[str, Any], optimizer: dict[str, Any], masker: Mapping[str, Any]
    ) -> None:
        """Go on where the three states were taken."""
        self._model.load_state_dict(model)
        self._optimizer.load_state_dict(optimizer)
        self._masker.load_state_dict(masker)

    def _accumulate(self, batch: Sequence[int]) -> Tensor:
        """Leave the gradient of the mean loss per target token in `.grad`; return that loss.

        Tokens are counted over the whole effective batch and all ranks, so neither the
        accumulation interval nor the number of workers changes the gradient. Every rank knows
        the whole batch and counts without asking the others.
        """
        group = self._group
        targets = self._data.targets(batch)
        mine = share(
            batch, self._data.lengths, micro=self._micro, rank=group.rank, workers=group.size
        )
        total = torch.zeros((), device=self._device)
        for number, indices in enumerate(mine):
            micro = self._data.micro_batch(indices).to(self._device)
            last = number == len(mine) - 1
            with nullcontext() if last else _without_sync(self._loss):
                loss = self._loss(micro.input_ids, micro.positions, micro.targets) / targets
                # DDP averages over the ranks; the sum is wanted.
                (loss * group.size if group.size > 1 else loss).backward()
            total += loss.detach()
        return group.sum_(total)

    def _step(self, update: int, norm: Tensor) -> float:
        """Clip the dense gradient, then mask and step; return the learning rate."""
        config = self._config
        if config.clip_norm is not None:
            clip_grads_with_norm_(self._parameters, config.clip_norm, norm)
        rate = learning_rate(
            update, steps=self._steps, peak=config.learning_rate, warmup_ratio=config.warmup_ratio
        )
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return rate

    def _seed(self, update: int) -> None:
        """Random states (dropout) as a function of seed, update and rank: resuming is exact."""
        seed = mixed_seed(self._config.seed, update, self._group.rank)
        torch.default_generator.manual_seed(seed)
        if self._device.type == "cuda":
            torch.cuda.manual_seed(seed)


def _parallel(loss: TokenLoss, group: Group, device: torch.device) -> torch.nn.Module:
    if group.size == 1:
        return loss
    return DistributedDataParallel(
        loss,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )


def _without_sync(loss: torch.nn.Module) -> AbstractContextManager[None]:
    return loss.no_sync() if isinstance(loss, DistributedDataParallel) else nullcontext()


def _method(config: FinetuneConfig) -> Method:
    method = config.method
    # Its own seed, so that the random mask is not tied to the data order.
    seed = mixed_seed(config.seed, 1)
    return build_method(method.name, method.mask_ratio, scope=method.scope, seed=seed)
