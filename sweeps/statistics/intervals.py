"""Simultaneous intervals of the means of a study's arms, and whether the arms share a variance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from sweeps.statistics.arms import Arm, Interval, TooFewScores, comparable, residuals
from sweeps.statistics.critical import maximum_modulus


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
