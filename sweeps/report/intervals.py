"""Critical values for several comparisons at once that share one estimate of the variance.

Each is the c with P(max |T_i| <= c) = confidence, the expectation over the shared normal and the
shared standard deviation taken by Gauss-Legendre quadrature on their quantiles.

Simultaneous intervals of the means of a study's arms, and whether the arms share a variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from sweeps.report.arms import Arm, Interval, TooFewScores, comparable, residuals

Array = NDArray[np.float64]
NODES = 160


@lru_cache(maxsize=64)
def maximum_modulus(confidence: float, count: int, df: int) -> float:
    """For `count` independent means: the studentized maximum modulus."""
    deviations, weights = _deviations(df)

    def coverage(c: float) -> float:
        inside = 2.0 * stats.norm.cdf(c * deviations) - 1.0
        return float(weights @ inside**count)

    return _solve(coverage, confidence)


@lru_cache(maxsize=64)
def dunnett(confidence: float, sizes: tuple[int, ...], control: int, df: int) -> float:
    """For arms of these `sizes`, each against one arm of size `control`: Dunnett, two-sided."""
    deviations, weights = _deviations(df)
    nodes, shared_weights = _quantiles()
    shared = stats.norm.ppf(nodes)

    def coverage(c: float) -> float:
        reach = c * deviations[:, None]
        inside = np.ones((NODES, NODES))
        for size in sizes:
            load = np.sqrt(size / (size + control))
            own = np.sqrt(1.0 - load**2)
            upper = stats.norm.cdf((load * shared + reach) / own)
            inside *= upper - stats.norm.cdf((load * shared - reach) / own)
        return float(weights @ inside @ shared_weights)

    return _solve(coverage, confidence)


@lru_cache(maxsize=64)
def tukey(confidence: float, count: int, df: int) -> float:
    """For every pair of `count` arms, the best one against each among them: Tukey-Kramer."""
    return float(stats.studentized_range.ppf(confidence, count, df)) / float(np.sqrt(2.0))


def _solve(coverage: Callable[[float], float], confidence: float) -> float:
    root = optimize.brentq(lambda c: coverage(c) - confidence, 0.0, 1e3, xtol=1e-6)
    return float(root)


def _quantiles() -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return (nodes + 1.0) / 2.0, weights / 2.0


def _deviations(df: int) -> tuple[Array, Array]:
    """Values and weights of the estimated over the true standard deviation."""
    nodes, weights = _quantiles()
    return np.sqrt(stats.chi2.ppf(nodes, df) / df), weights


def simultaneous_intervals(arms: Sequence[Arm], confidence: float = 0.95) -> list[Interval]:
    """Intervals of all means at once.

    On common seeds they are about what differs between arms: with this confidence every true
    mean lies inside, up to one shift of all together (another draw of seeds). Without common
    seeds they hold the means themselves. The critical value is the studentized maximum modulus.
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


def spread_differs_p(arms: Sequence[Arm]) -> float:
    """Brown-Forsythe p-value: small where the arms do not share one variance; 1 if unknown."""
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
