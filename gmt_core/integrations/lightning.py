"""Lightning: one callback for the Trainer.

from gmt_core.integrations.lightning import GradientMask, GradientMaskCallback, GradientMasker
trainer = Trainer(callbacks=[GradientMaskCallback(GradientMasker(GradientMask(mask_ratio=0.2)))])
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Final, final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import Tensor
from torch.optim import LBFGS, Optimizer
from torch.utils.hooks import RemovableHandle

from gmt_core.gradient_mask import GradientMask
from gmt_core.masker import GradientMasker

# With what its caller needs beside it, so that a script takes one import more, and not two.
__all__ = ["GradientMask", "GradientMaskCallback", "GradientMasker"]

_INSTEAD: Final = "use strategy='ddp', or ModelParallelStrategy (FSDP2)"


@final
class GradientMaskCallback(Callback):
    """Masks once per update, on the gradient that Lightning accumulated, reduced and clipped.

    The masker's state is saved in Lightning's checkpoints, and its statistics go to the Trainer's
    loggers.
    """

    def __init__(
        self, masker: GradientMasker, named_parameters: Iterable[tuple[str, Tensor]] = ()
    ) -> None:
        """Build the callback.

        Args:
            masker: attached to no optimizer yet.
            named_parameters: names of what the optimizer has besides the module's parameters.
        """
        self.masker = masker
        self._others = tuple(named_parameters)
        self._fresh = copy.deepcopy(masker.state_dict())
        self._closure_hook: RemovableHandle | None = None

    def __repr__(self) -> str:
        """As it was built."""
        return f"GradientMaskCallback({self.masker!r})"

    def state_dict(self) -> dict[str, Any]:
        """The masker's, for Lightning's checkpoint."""
        return self.masker.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The masker's, from Lightning's checkpoint."""
        self.masker.load_state_dict(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach to the one optimizer; raises ValueError where that cannot be right."""
        optimizer = _only_optimizer(trainer)
        if trainer.global_step == 0:
            self.masker.load_state_dict(self._fresh)
        elif self.masker.state_dict() == self._fresh:
            raise ValueError(
                f"ckpt_path: the checkpoint at step {trainer.global_step} was written without a "
                "masker, so no mask state can be resumed; load its weights and start a new run"
            )
        self._attach(optimizer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Attach again where parameters joined the optimizer, as under BackboneFinetuning."""
        optimizer = _only_optimizer(trainer)
        if not self.masker.fits(optimizer):
            self._attach(optimizer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Log the latest measured update's statistics."""
        statistics = self.masker.statistics
        if statistics is not None:
            metrics = {**statistics.metrics(), "gmt/update": float(statistics.update + 1)}
            pl_module.log_dict(metrics, on_step=True, on_epoch=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the optimizer as it was."""
        self._detach()

    def _attach(self, optimizer: Optimizer, pl_module: LightningModule) -> None:
        self._detach()  # an earlier fit() may have ended in an error
        self._closure_hook = optimizer.register_step_pre_hook(_evaluate_closure)
        self.masker.attach(optimizer, [*pl_module.named_parameters(), *self._others])

    def _detach(self) -> None:
        self.masker.detach()
        if self._closure_hook is not None:
            self._closure_hook.remove()
            self._closure_hook = None


def _evaluate_closure(
    optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Compute and clip the gradient now, so that there is one to mask when the step begins.

    Lightning hands `step` a closure that does so, and reads the loss from the closure itself.
    """
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if closure is not None:
        with torch.enable_grad():
            closure()
    rest = {name: value for name, value in kwargs.items() if name != "closure"}
    return (optimizer, *([None] if len(args) > 1 else []), *args[2:]), rest


def _only_optimizer(trainer: Trainer) -> Optimizer:
    """The optimizer that Lightning steps; ValueError where its gradients cannot be masked."""
    if isinstance(trainer.strategy, DeepSpeedStrategy):
        raise ValueError(f"masker: DeepSpeed flattens and partitions gradients; {_INSTEAD}")
    if isinstance(trainer.strategy, FSDPStrategy):
        raise ValueError(f"masker: FSDP1 flattens the gradients it shards; {_INSTEAD}")
    if len(trainer.optimizers) != 1:
        raise ValueError(
            f"masker: expected one optimizer, found {len(trainer.optimizers)}; attach a "
            "masker to each one yourself, in configure_optimizers"
        )
    optimizer: Optimizer = trainer.optimizers[0]
    if isinstance(optimizer, LBFGS):
        raise ValueError(
            "masker: LBFGS computes several gradients in each step, so there is none to mask; "
            "choose a first-order optimizer"
        )
    return optimizer
