"""What the checkpoints of a trial take: bytes, seconds, and the time that training waits."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import final

from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.memory import checkpoint_bytes
from sweeps.finetune.optimizers import checkpoint_steps

WRITE_RATE = 125.0
"""Megabytes per second of a gp3 volume, unless more is paid for."""


@final
@dataclass(frozen=True)
class CheckpointCost:
    """`count` checkpoints of a trial, of `size` bytes each, which takes `seconds` to write.

    `waits`: for how many seconds they delay the trial in all; None if unknown.
    """

    count: int
    size: int
    seconds: float
    waits: float | None


def checkpoint_cost(
    run: FinetuneConfig, workers: int, device: str, training: float | None, rate: float
) -> CheckpointCost | None:
    """The cost for a trial of `training` seconds whose disk takes `rate` megabytes per second.

    In the background, training waits only for one that is not written when the next is due. None
    if the model's size is unknown.
    """
    if (size := checkpoint_bytes(run)) is None:
        return None
    steps = run.steps(workers)
    saves = sorted(checkpoint_steps(steps, run.evaluation.checks, run.checkpoint_updates))
    seconds = size / (1e6 * rate)
    waits: float | None = len(saves) * seconds
    if run.saves_in_background(device) and saves:
        gaps = [after - before for before, after in pairwise([*saves, steps])]
        step = None if training is None else training / steps
        waits = None if step is None else sum(max(0.0, seconds - gap * step) for gap in gaps)
    return CheckpointCost(len(saves), size, seconds, waits)
