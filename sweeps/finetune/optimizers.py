"""Optimizers by name, the learning rate of each update, and the steps of validation checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sweeps.finetune.finetune_config import FinetuneConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor


DECAY = 0.2


def learning_rate(
    update: int, *, steps: int, peak: float, warmup_ratio: float, schedule: str = "cosine"
) -> float:
    """Linear warm-up, then `schedule`, for `update` in [0, steps).

    Equal to the schedules of transformers' Trainer, so that runs are comparable:
    `ceil(warmup_ratio * steps)` warm-up updates, the first at rate 0. `wsd` (arXiv 2404.06395)
    falls linearly to zero in the last `DECAY` of the updates.
    """
    warmup = math.ceil(warmup_ratio * steps)
    if update < warmup:
        return peak * update / max(1, warmup)
    left = steps - update
    match schedule:
        case "constant":
            return peak
        case "linear":
            return peak * left / max(1, steps - warmup)
        case "wsd":
            return peak * min(1.0, left / max(1, min(round(DECAY * steps), steps - warmup)))
    progress = (update - warmup) / max(1, steps - warmup)
    return peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def check_steps(steps: int, checks: int) -> tuple[int, ...]:
    """At most `checks` evenly spaced updates (1-based, ascending); the last one is `steps`."""
    return tuple(sorted({math.ceil(steps * part / checks) for part in range(1, checks + 1)}))


def checkpoint_steps(steps: int, checks: int, every: int | None) -> frozenset[int]:
    """The updates that a checkpoint follows: those of checks and each `every`-th, not the last."""
    between = range(every, steps, every) if every else ()
    return frozenset({*check_steps(steps, checks), *between}) - {steps}


class OptimizerError(ValueError):
    """An optimizer is not available here; the message says what to install or choose."""


def build_optimizer(
    config: FinetuneConfig, named: Sequence[tuple[str, Tensor]]
) -> torch.optim.Optimizer:
    """The configured optimizer over named parameters; the trainer sets its learning rate.

    `adafactor` (Shazeer & Stern 2018) scales its rate by the parameters' size and has no first
    moment; `adamw_8bit` (Dettmers et al. 2022) keeps both moments in eight bits, on a GPU.
    """
    import torch  # the checks below do not need it

    if config.optimizer == "adafactor":
        return torch.optim.Adafactor(named, lr=0.0, weight_decay=config.weight_decay)
    options: dict[str, Any] = {"betas": config.betas, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw_8bit":
        library = _bitsandbytes()
        if named[0][1].device.type != "cuda":
            raise OptimizerError(
                "optimizer: 'adamw_8bit' requires a GPU; expected 'adamw' or 'adafactor' here"
            )
        # It takes no parameter names; the masker then uses their positions as names.
        found: torch.optim.Optimizer = library.optim.AdamW8bit([p for _, p in named], **options)
        return found
    return torch.optim.AdamW(named, lr=0.0, fused=True, **options)


def check_optimizer(name: str) -> None:
    """Raise OptimizerError if the optimizer needs a package that is not installed."""
    if name == "adamw_8bit":
        _bitsandbytes()


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError:
        raise OptimizerError(
            "optimizer: 'adamw_8bit' requires bitsandbytes, which is not installed; install it "
            "(pip install bitsandbytes), or choose 'adamw' or 'adafactor'"
        ) from None
    return bitsandbytes
