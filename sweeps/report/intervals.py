"""Simultaneous intervals for the means of arms, and the critical values they use.

All comparisons share one variance estimate. Each critical value is the c with P(max |T_i| <= c) =
confidence. The expectation over the shared normal and standard deviation is computed by
Gauss-Legendre quadrature on their quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import optimize, stats

from sweeps.report.arms import Arm, Interval, TooFewScores, comparable, residuals
from sweeps.report.trial_row import ScoreLabel, TrialRow

NODES = 160


def maximum_modulus(confidence: float, count: int, df: int) -> float:
    """The studentized maximum modulus, for `count` independent means."""
    return _critical(confidence, (0.0,) * count, df)


def dunnett(confidence: float, sizes: tuple[int, ...], control: int, df: int) -> float:
    """Dunnett's two-sided value, for arms of these `sizes` against one arm of size `control`."""
    return _critical(confidence, tuple(math.sqrt(n / (n + control)) for n in sizes), df)


@lru_cache(maxsize=64)
def _critical(confidence: float, loads: tuple[float, ...], df: int) -> float:
    """For statistics that share one normal variable with these `loads`."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    nodes, weights = (nodes + 1.0) / 2.0, weights / 2.0
    shared = stats.norm.ppf(nodes)
    deviations = np.sqrt(stats.chi2.ppf(nodes, df) / df)  # estimated over true

    def excess(c: float) -> float:
        reach, inside = c * deviations[:, None], np.ones((NODES, NODES))
        for load in loads:
            own = math.sqrt(1.0 - load**2)
            upper = stats.norm.cdf((load * shared + reach) / own)
            inside *= upper - stats.norm.cdf((load * shared - reach) / own)
        return float(weights @ inside @ weights) - confidence

    return float(optimize.brentq(excess, 0.0, 1e3, xtol=1e-6))


@lru_cache(maxsize=64)
def tukey(confidence: float, count: int, df: int) -> float:
    """The Tukey-Kramer value for every pair of `count` arms, including best against each."""
    return float(stats.studentized_range.ppf(confidence, count, df)) / float(np.sqrt(2.0))


def simultaneous_intervals(arms: Sequence[Arm], confidence: float = 0.95) -> list[Interval]:
    """Simultaneous intervals of all means.

    On common seeds they describe differences between arms: with this confidence every true mean
    lies inside, up to one common shift (from drawing other seeds). Without common seeds they cover
    the means themselves. The critical value is the studentized maximum modulus.
    """
    found = comparable(arms)
    spread, count = found.spread, len(arms)
    paired = bool(found.arms[0].seeds) and count > 1
    share = (count - 1) / count if paired else 1.0  # a mean's variance about the overall mean
    reach = maximum_modulus(confidence, count, spread.df) * spread.sd * math.sqrt(share)
    return [
        Interval(
            arm.mean, arm.mean - reach / math.sqrt(arm.n), arm.mean + reach / math.sqrt(arm.n)
        )
        for arm in found.arms
    ]


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Student's interval of a mean; None for fewer than two values."""
    count = len(values)
    if count < 2:
        return None
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(count)
    reach = float(stats.t.ppf((1.0 + confidence) / 2.0, count - 1)) * error
    return Interval(mean, mean - reach, mean + reach)


def shown_intervals(arms: Sequence[Arm], label: ScoreLabel) -> list[Interval | None]:
    """Simultaneous intervals, cut where no score lies; None for arms without scores, or for all if
    there are too few seeds."""
    some = [one for one in arms if one.scores]
    try:
        found = iter(simultaneous_intervals(some))
    except TooFewScores:
        return [None] * len(arms)
    return [cut(next(found), label) if one.scores else None for one in arms]


def cut(found: Interval, label: ScoreLabel) -> Interval:
    """The part of a mean's interval in which scores can lie."""
    return Interval(found.estimate, label.within(found.low), label.within(found.high))


def score_interval(row: TrialRow) -> Interval | None:
    """The 95 % interval of a trial's score over other validation items; None if it was not
    estimated, or if the score is a mean over seeds, whose items are the same."""
    low, high = (row.metrics.get(f"validation/{end}") for end in ("low", "high"))
    if row.score is None or row.scores or low is None or high is None:
        return None
    return Interval(row.score, low, high)


def bars(found: Sequence[Interval | None], label: ScoreLabel) -> list[list[float]]:
    """How far intervals reach below and above their estimates, as Matplotlib draws them."""
    reach = [(0.0, 0.0) if i is None else (i.estimate - i.low, i.high - i.estimate) for i in found]
    return [list(side) for side in zip(*(pair[:: int(label.sign)] for pair in reach), strict=True)]


UNEQUAL = 0.05
"""If Brown-Forsythe's p is below this, one pooled spread is doubtful."""


def spread_caveat(p: float) -> list[str]:
    """What unequal spreads do to the verdicts, given Brown-Forsythe's p; empty if it is large."""
    return [
        f"The spread between seeds differs between the arms (Brown-Forsythe p = {p:.2g}): with "
        "one pooled spread, 'different' can be wrong about twice as often as the nominal 5 %."
    ] * (p < UNEQUAL)


def spread_differs_p(arms: Sequence[Arm]) -> float:
    """Brown-Forsythe p-value: small if the arms do not share one variance; 1 if unknown."""
    try:
        found = comparable(arms)
    except TooFewScores:
        return 1.0
    table = [np.array(arm.scores) for arm in found.arms if arm.n >= 3]
    if len(table) > 1 and found.arms[0].seeds:
        table = list(residuals(np.array(table)))
    if len(table) < 2 or not any(np.ptp(group) > 0 for group in table):
        return 1.0
    p = float(stats.levene(*table, center="median").pvalue)
    return 1.0 if math.isnan(p) else p
