"""The arms of a fixed design, and their scores among a study's trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from sweeps.report.data import TrialRow
from sweeps.statistics.arms import Arm

Rows = Sequence[TrialRow]


@final
@dataclass(frozen=True)
class Setting:
    """One arm of a design: a method at a ratio, on a share of the training rows."""

    method: str
    mask_ratio: float
    train_fraction: float = 1.0

    def holds(self, row: TrialRow) -> bool:
        """Whether a trial belongs to this arm."""
        mine = (self.method, self.mask_ratio, self.train_fraction)
        return (row.method, row.mask_ratio, row.train_fraction) == mine


SFT = Setting("sft", 0.0)


def setting_at(ratio: float, method: str = "gmt") -> Setting:
    """The arm at a mask ratio; at 0 there is nothing to mask."""
    return Setting(method, ratio) if ratio else SFT


def arm(setting: Setting, rows: Rows, name: str, stage: str = "replicate") -> Arm:
    """The scores of a setting's finished trials of one stage, by seed."""
    some = sorted(scored_at(rows, setting, stage), key=lambda row: row.seed)
    scores = tuple(row.score for row in some if row.score is not None)
    return Arm(name, scores, tuple(row.seed for row in some))


def scored_at(rows: Rows, setting: Setting, stage: str) -> list[TrialRow]:
    """A setting's finished trials of one stage."""
    return [
        row
        for row in rows
        if row.state == "finished"
        and row.score is not None
        and row.stage == stage
        and setting.holds(row)
    ]


def winner(ratios: Sequence[float], rows: Rows, method: str = "gmt") -> float | None:
    """The masked ratio with the highest mean over replicates; None before any has one."""
    means = {}
    for ratio in ratios:
        one = arm(setting_at(ratio, method), rows, f"{ratio:g}")
        if ratio and one.scores:
            means[ratio] = one.mean
    return max(means, key=lambda r: means[r], default=None)
