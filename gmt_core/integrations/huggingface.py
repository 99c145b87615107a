"""Transformers' Trainer, and what derives from it: TRL's SFTTrainer, DPOTrainer and others.

from gmt_core.integrations.huggingface import GradientMask, GradientMaskCallback, GradientMasker
GradientMaskCallback(GradientMasker(GradientMask(mask_ratio=0.2))).add_to(trainer)
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Final, Self, final

from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LayerWiseDummyOptimizer

from gmt_core.gradient_mask import GradientMask
from gmt_core.masker import GradientMasker
from gmt_core.parameters import torch_optimizer

# With what its caller needs beside it, so that a script takes one import more, and not two.
__all__ = ["GradientMask", "GradientMaskCallback", "GradientMasker"]

# Not the class's name: entries of that name are rebuilt from JSON by the Trainer where
# `restore_callback_states_from_checkpoint` is set, and a masker cannot be.
_STATE: Final = "gmt_core.masker"


@final
class GradientMaskCallback(TrainerCallback):
    """Masks once per update, on the gradient that the Trainer accumulated, reduced and clipped.

    Mini-batches that only accumulate, and steps that the fp16 scaler skips, do not count. The
    masker's state is saved in `trainer_state.json` of every checkpoint, and its statistics go to
    the Trainer's logs.
    """

    def __init__(
        self, masker: GradientMasker, named_parameters: Iterable[tuple[str, Tensor]] = ()
    ) -> None:
        """Build the callback.

        Args:
            masker: attached to no optimizer yet.
            named_parameters: names of what the optimizer has besides the model's parameters, such
                as those of a loss.
        """
        self.masker = masker
        self._others = tuple(named_parameters)
        self._fresh = copy.deepcopy(masker.state_dict())

    def __repr__(self) -> str:
        """As it was built."""
        return f"GradientMaskCallback({self.masker!r})"

    def add_to(self, trainer: Trainer) -> Self:
        """Join the trainer's callbacks, before those that send logs to trackers.

        `callbacks=[...]` would put it after them, so they would miss the statistics.

        Raises:
            ValueError: the trainer has such a callback already.
        """
        callbacks = trainer.callback_handler.callbacks
        if any(isinstance(callback, GradientMaskCallback) for callback in callbacks):
            raise ValueError("trainer: expected no GradientMaskCallback yet, found one")
        callbacks.insert(0, self)
        return self

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        **kwargs: Any,
    ) -> None:
        """Attach, and go on where the checkpoint was taken."""
        if isinstance(torch_optimizer(optimizer), LayerWiseDummyOptimizer):
            raise ValueError(
                "masker: a layer-wise optimizer updates during backward(), before the gradient is "
                "complete; choose the `optim` of the same name without _layerwise"
            )
        start = self._state_to_start_from(state)
        self.masker.load_state_dict(start)
        state.stateful_callbacks[_STATE] = start
        self.masker.detach()  # an earlier train() may have ended in an error
        self.masker.attach(optimizer, [*model.named_parameters(), *self._others])

    def _state_to_start_from(self, state: TrainerState) -> dict[str, Any]:
        if state.global_step == 0:
            return copy.deepcopy(self._fresh)
        if _STATE not in state.stateful_callbacks:
            raise ValueError(
                f"resume_from_checkpoint: the checkpoint at step {state.global_step} was written "
                "without a masker, so no mask state can be resumed; load it as the model of a new "
                "run instead"
            )
        return dict(state.stateful_callbacks[_STATE])

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        optimizer: Optimizer,
        **kwargs: Any,
    ) -> None:
        """Lay the state where the next checkpoint takes it from.

        Raises ValueError where weights were updated past the masker.
        """
        done = self.masker.state_dict()
        # A scaler may have skipped the step; of fused optimizers Accelerate does not say so.
        scaled = getattr(optimizer, "scaler", None) is not None
        if done == state.stateful_callbacks[_STATE] and not scaled:
            kind = type(torch_optimizer(optimizer)).__name__
            raise ValueError(f"masker: {kind} updates weights outside of its step(), unmasked")
        state.stateful_callbacks[_STATE] = done

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Add the latest measured update's statistics to training logs, not to evaluation's."""
        statistics = self.masker.statistics
        if statistics is None or "loss" not in logs:
            return
        metrics = {**statistics.metrics(), "gmt/update": statistics.update + 1}
        logs.update(metrics)
        state.log_history[-1].update(metrics)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the optimizer as it was."""
        self.masker.detach()
