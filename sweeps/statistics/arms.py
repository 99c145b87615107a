"""Arms of a study (one setting, one score per seed) and simultaneous intervals of their means.

All arms share one variance, pooled over them: with few seeds an arm's own is nearly unknown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy import stats

from sweeps.statistics.critical import maximum_modulus


class TooFewScores(ValueError):
    """The scores do not carry the statistic; the message says what is missing."""


@final
@dataclass(frozen=True)
class Arm:
    """One setting of a study and its scores, one per seed; higher is better."""

    name: str
    scores: tuple[float, ...]

    @property
    def n(self) -> int:
        """The number of seeds."""
        return len(self.scores)

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return math.fsum(self.scores) / self.n


@final
@dataclass(frozen=True)
class Spread:
    """A standard deviation between seeds, and the degrees of freedom it rests on."""

    sd: float
    df: int


@final
@dataclass(frozen=True)
class Interval:
    """An estimate with its bounds."""

    estimate: float
    low: float
    high: float


def pooled_spread(arms: Sequence[Arm]) -> Spread:
    """The standard deviation within arms: sqrt(sum of squares within / sum of (n - 1)).

    Raises:
        TooFewScores: an arm is empty, or none has two seeds.
    """
    empty = [arm.name for arm in arms if not arm.scores]
    if empty or not arms:
        raise TooFewScores(f"no score at {', '.join(empty) or 'any setting'}")
    df = sum(arm.n - 1 for arm in arms)
    if df < 1:
        raise TooFewScores("one seed each: the spread between seeds needs two seeds or more")
    squares = math.fsum((x - arm.mean) ** 2 for arm in arms for x in arm.scores)
    return Spread(math.sqrt(squares / df), df)


def simultaneous_intervals(arms: Sequence[Arm], confidence: float = 0.95) -> list[Interval]:
    """Intervals that hold all true means at once with this confidence.

    Studentized maximum modulus: mean +- m * sd / sqrt(n), exact for normal scores of equal
    variance, also where the numbers of seeds differ.
    """
    spread = pooled_spread(arms)
    reach = maximum_modulus(confidence, len(arms), spread.df) * spread.sd
    return [
        Interval(
            arm.mean, arm.mean - reach / math.sqrt(arm.n), arm.mean + reach / math.sqrt(arm.n)
        )
        for arm in arms
    ]


def spread_differs_p(arms: Sequence[Arm]) -> float:
    """Brown-Forsythe p-value: small where the arms do not share one variance; 1 if unknown."""
    groups = [arm.scores for arm in arms if arm.n >= 3]
    if len(groups) < 2 or not any(np.ptp(group) > 0 for group in groups):
        return 1.0
    p = float(stats.levene(*groups, center="median").pvalue)
    return 1.0 if math.isnan(p) else p
