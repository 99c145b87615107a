"""How many seeds a decision takes, before they are run and when they turn out too few.

For arms on common seeds: `sd` is what is left without what a seed does to all arms alike.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from sweeps.statistics.critical import tukey
from sweeps.statistics.equivalence import ALPHA, holm, tost_p

POWER = 0.8
MOST_SEEDS = 200
SIMULATED = 2000


def drop_power(arms: int, seeds: int, drop_in_sd: float, alpha: float = ALPHA) -> float:
    """A lower bound of the chance that a drop of one arm below the others is called different.

    It is held against one arm of the plateau; the best of them, with which the verdict compares,
    lies higher. Noncentral t at Tukey's critical value.
    """
    df = (arms - 1) * (seeds - 1)
    shift = drop_in_sd / math.sqrt(2.0 / seeds)
    return float(stats.nct.sf(tukey(1.0 - alpha, arms, df), df, shift))


def flat_power(
    arms: int, seeds: int, margin_in_sd: float, alpha: float = ALPHA, seed: int = 0
) -> float:
    """The chance that a truly flat curve is called equivalent as a whole, by simulation."""
    random = np.random.default_rng(seed)
    df = (arms - 1) * (seeds - 1)
    means = random.standard_normal((SIMULATED, arms)) / math.sqrt(seeds)
    deviations = np.sqrt(random.chisquare(df, SIMULATED) / df)
    differences = np.sort(means - means.max(axis=1, keepdims=True), axis=1)[:, :-1]
    errors = np.broadcast_to(deviations[:, None] * math.sqrt(2.0 / seeds), differences.shape)
    p = holm(tost_p(differences, errors, df, margin_in_sd))
    return float((p <= alpha).all(axis=1).mean())


def seeds_for_flat(
    arms: int, sd: float, margin: float, power: float = POWER, alpha: float = ALPHA
) -> int | None:
    """The seeds per arm with which a truly flat curve is called equivalent with this power.

    None if more than `MOST_SEEDS` are needed: the margin is then below what seeds can resolve.
    """
    if sd == 0:
        return 2

    def enough(seeds: int) -> bool:
        return flat_power(arms, seeds, margin / sd, alpha) >= power

    if not enough(MOST_SEEDS):
        return None
    low, high = 1, MOST_SEEDS  # low is never enough: one seed has no spread
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
