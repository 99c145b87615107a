"""Detect a diverged model: a loss, weight or score that is NaN or infinite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sweeps.finetune.process_group import Group


class DivergedError(ArithmeticError):
    """A loss, gradient, weight or score is not finite."""


def check_weights(model: torch.nn.Module, group: Group) -> None:
    """Check that every parameter is finite; if the model is sharded, each rank checks its part.

    Raises:
        DivergedError: on every rank of the group, if any rank found such a weight.
    """
    parameters = list(model.parameters())
    broken = torch.stack([~is_finite(each) for each in parameters]).any()
    if group.sum_(broken.float()).item():
        raise DivergedError("some weights are NaN or infinite")


def is_finite(tensor: Tensor) -> Tensor:
    """Whether all elements are finite, as a scalar on the device; for shards, this rank's."""
    local: Any = getattr(tensor, "to_local", lambda: tensor)()
    if not local.numel():
        return torch.ones((), dtype=torch.bool, device=local.device)
    return torch.stack(torch.aminmax(local.detach())).isfinite().all()  # NaN passes through both


def check_scores(score: float, metrics: Mapping[str, float]) -> None:
    """Raise DivergedError if a score is not finite.

    Accuracy alone may hide it: for a model that outputs NaN, accuracy is 0 and bits per byte NaN.
    """
    for name, value in {"score": score, **metrics}.items():
        if not math.isfinite(value):
            raise DivergedError(f"{name} is {value:g}")


def check_model_folder(folder: Path) -> None:
    """Check the weights of a saved model, one tensor at a time.

    Raises:
        DivergedError: names the tensor that is not finite.
    """
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (not a mapping)
                tensor = weights.get_tensor(name)
                if tensor.is_floating_point() and not is_finite(tensor):
                    raise DivergedError(
                        f"{name} in {file.name} has elements that are NaN or infinite"
                    )
