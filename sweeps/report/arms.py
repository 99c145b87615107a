"""Arms of a study (one setting, one score per seed), and the spread of their scores.

All arms run on the same seeds. A seed (the data order) shifts all arms alike, often by much more
than arms differ. Seeds are therefore blocks: their effect is removed, and one variance is pooled
over the residuals, because few seeds give little information about a single arm's variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from evaluators.paired_comparison import Interval as Interval
from evaluators.paired_comparison import TooFewScores as TooFewScores
from sweeps.report.trial_row import TrialRow

Array = NDArray[np.float64]


@final
@dataclass(frozen=True)
class Arm:
    """One setting of a study and its scores; higher is better.

    `seeds`: the seed of each score; empty if arms share no seeds.
    """

    name: str
    scores: tuple[float, ...]
    seeds: tuple[int, ...] = ()

    @property
    def n(self) -> int:
        """The number of scores."""
        return len(self.scores)

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return math.fsum(self.scores) / self.n


@final
@dataclass(frozen=True)
class Spread:
    """A standard deviation between seeds, and its degrees of freedom."""

    sd: float
    df: int


@final
@dataclass(frozen=True)
class Comparable:
    """Arms restricted to their common seeds, with their spread.

    `blocks`: the standard deviation of the seed effect, which is shared by all arms and cancels in
    differences; 0 if arms share no seeds.
    """

    arms: tuple[Arm, ...]
    spread: Spread
    blocks: float = 0.0


def comparable(arms: Sequence[Arm]) -> Comparable:
    """The arms on their common seeds, and the spread of single scores within them.

    Seeds are blocks of a complete block design. Without seeds, or with one arm, all scores count
    as independent.

    Raises:
        TooFewScores: an arm is empty, or there are fewer than two common seeds.
    """
    empty = [arm.name for arm in arms if not arm.scores]
    if empty or not arms:
        raise TooFewScores(f"no score at {', '.join(empty) or 'any setting'}")
    if len(arms) == 1 or not all(arm.seeds for arm in arms):
        return Comparable(tuple(arms), _independent_spread(arms))
    common = sorted(set.intersection(*(set(arm.seeds) for arm in arms)))
    if len(common) < 2:
        raise TooFewScores("fewer than two common seeds: the spread between seeds requires two")
    table = np.array([[arm.scores[arm.seeds.index(s)] for s in common] for arm in arms])
    left = residuals(table)
    df = (len(arms) - 1) * (len(common) - 1)
    some = [
        Arm(arm.name, tuple(row), tuple(common))
        for arm, row in zip(arms, table.tolist(), strict=True)
    ]
    spread = Spread(float(np.sqrt((left**2).sum() / df)), df)
    return Comparable(tuple(some), spread, float(table.mean(axis=0).std(ddof=1)))


def _independent_spread(arms: Sequence[Arm]) -> Spread:
    df = sum(arm.n - 1 for arm in arms)
    if df < 1:
        raise TooFewScores("one seed each: the spread between seeds requires two or more seeds")
    squares = math.fsum((x - arm.mean) ** 2 for arm in arms for x in arm.scores)
    return Spread(math.sqrt(squares / df), df)


def residuals(table: Array) -> Array:
    """The residuals of (arms, seeds) without the means of arms and of seeds."""
    rows, columns = table.mean(axis=1, keepdims=True), table.mean(axis=0, keepdims=True)
    left: Array = table - rows - columns + table.mean()
    # Residuals below the rounding error of the scores are zero.
    return np.where(np.abs(left) > 1e-12 * np.abs(table).max(initial=0.0), left, 0.0)


Rows = Sequence[TrialRow]


@final
@dataclass(frozen=True)
class Setting:
    """One arm of a design: a method at a ratio, trained on a share of the rows."""

    method: str
    mask_ratio: float
    train_fraction: float = 1.0

    def holds(self, row: TrialRow) -> bool:
        """Whether a trial belongs to this arm."""
        mine = (self.method, self.mask_ratio, self.train_fraction)
        return (row.method, row.mask_ratio, row.train_fraction) == mine


SFT = Setting("sft", 0.0)


def setting_at(ratio: float, method: str = "gmt") -> Setting:
    """The arm at a mask ratio; 0 is SFT."""
    return Setting(method, ratio) if ratio else SFT


def arm(setting: Setting, rows: Rows, name: str, stage: str = "replicate") -> Arm:
    """The scores of a setting's finished trials of one stage, sorted by seed."""
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
    """The masked ratio with the highest mean over replicates; None before any replicate."""
    means = {}
    for ratio in ratios:
        one = arm(setting_at(ratio, method), rows, f"{ratio:g}")
        if ratio and one.scores:
            means[ratio] = one.mean
    return max(means, key=lambda r: means[r], default=None)
