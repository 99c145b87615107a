"""Equivalence of settings: two one-sided tests (TOST) at a preregistered margin, and power.

Comparing with the best arm needs no correction for selecting it in the equivalence test: the arm
with the highest mean lies at or above the mean of the truly best one, so the test is conservative.
A difference from it is biased by the selection, so it is tested with Tukey's studentized range,
which covers every pair. Statements about several arms are Holm-corrected. All arms have about the
same size.

The power functions give the number of seeds for a decision, before a study or after too few. For
arms on common seeds, `sd` excludes the seed effect, which all arms share.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evaluators import statistics
from sweeps.report.arms import Arm, Comparable, Spread, comparable
from sweeps.report.intervals import dunnett, tukey

Array = NDArray[np.float64]
Verdict = Literal["equivalent", "different", "inconclusive"]
ALPHA = 0.05


@final
@dataclass(frozen=True)
class Comparison:
    """One arm against the reference. `difference` is arm - reference, in score units.

    The intervals [`low`, `high`] hold for all arms simultaneously; `p_equivalent` is
    Holm-adjusted.
    """

    name: str
    difference: float
    low: float
    high: float
    p_equivalent: float
    verdict: Verdict


@final
@dataclass(frozen=True)
class Comparisons:
    """Every other arm against `reference` at `margin`; `verdict` covers all of them together."""

    reference: str
    margin: float
    spread: Spread
    arms: tuple[Comparison, ...]

    @property
    def verdict(self) -> Verdict:
        """Equivalent if all arms are; different if any is; else inconclusive."""
        return overall([arm.verdict for arm in self.arms])


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict for several arms together."""
    if all(verdict == "equivalent" for verdict in verdicts):
        return "equivalent"
    return "different" if "different" in verdicts else "inconclusive"


def against_best(arms: Sequence[Arm], margin: float) -> Comparisons:
    """Every arm against the one with the highest mean (the first one in a tie).

    Raises:
        TooFewScores: see `comparable`.
    """
    found = comparable(arms)
    best = max(range(len(arms)), key=lambda i: found.arms[i].mean)
    critical = tukey(1.0 - ALPHA, len(arms), found.spread.df) if len(arms) > 1 else 0.0
    return _compare(found, best, margin, ALPHA, critical)


def against_control(
    arms: Sequence[Arm], control: Arm, margin: float, alpha: float = ALPHA
) -> Comparisons:
    """Every other arm against `control`, which is one of `arms`, with Dunnett's intervals.

    Raises:
        TooFewScores: see `comparable`.
    """
    found = comparable(arms)
    place = next(i for i, arm in enumerate(arms) if arm is control)
    sizes = tuple(arm.n for i, arm in enumerate(found.arms) if i != place)
    df = found.spread.df
    critical = dunnett(1.0 - alpha, sizes, found.arms[place].n, df) if sizes else 0.0
    return _compare(found, place, margin, alpha, critical)


def _compare(
    found: Comparable, place: int, margin: float, alpha: float, critical: float
) -> Comparisons:
    spread, reference = found.spread, found.arms[place]
    others = [arm for i, arm in enumerate(found.arms) if i != place]
    differences = np.array([arm.mean - reference.mean for arm in others])
    errors = np.array([spread.sd * math.sqrt(1 / arm.n + 1 / reference.n) for arm in others])
    p_equivalent = holm(tost_p(differences, errors, spread.df, margin))
    reach = critical * errors
    names = verdicts(differences, reach, p_equivalent, alpha)
    return Comparisons(
        reference.name,
        margin,
        spread,
        tuple(
            Comparison(arm.name, float(d), float(d - r), float(d + r), float(p), verdict)
            for arm, d, r, p, verdict in zip(
                others, differences, reach, p_equivalent, names, strict=True
            )
        ),
    )


def tost_p(differences: Array, errors: Array, df: int, margin: float) -> Array:
    """The p-values of the two one-sided tests of |true difference| >= margin, elementwise.

    They are 1 without any spread to estimate the errors from.
    """
    distance = margin - np.abs(differences)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(errors > 0, distance / errors, -np.inf)
    p: Array = stats.t.sf(t, df)
    return p


def holm(p: Array) -> Array:
    """Holm's adjusted p-values along the last axis."""
    adjusted: Array = np.apply_along_axis(lambda row: statistics.holm(row.tolist()), -1, p)
    return adjusted


def verdicts(
    differences: Array, reach: Array, p_equivalent: Array, alpha: float = ALPHA
) -> list[Verdict]:
    """Equivalent if the adjusted TOST is significant; else different if beyond `reach` from 0.

    Without any spread, which makes `reach` 0, nothing can be concluded.
    """
    return [
        "equivalent" if p <= alpha else "different" if abs(d) > r > 0 else "inconclusive"
        for d, r, p in zip(differences, reach, p_equivalent, strict=True)
    ]


POWER = 0.8
MOST_SEEDS = 200
SIMULATED = 2000


def flat_power(arms: int, seeds: int, margin_in_sd: float) -> float:
    """The chance that a truly flat curve is called equivalent as a whole, by simulation."""
    random = np.random.default_rng(0)
    df = (arms - 1) * (seeds - 1)
    means = random.standard_normal((SIMULATED, arms)) / math.sqrt(seeds)
    deviations = np.sqrt(random.chisquare(df, SIMULATED) / df)
    differences = np.sort(means - means.max(axis=1, keepdims=True), axis=1)[:, :-1]
    errors = np.broadcast_to(deviations[:, None] * math.sqrt(2.0 / seeds), differences.shape)
    p = holm(tost_p(differences, errors, df, margin_in_sd))
    return float((p <= ALPHA).all(axis=1).mean())


def seeds_for_flat(arms: int, sd: float, margin: float) -> int | None:
    """The seeds per arm that give the power `POWER` to call a truly flat curve equivalent.

    None if more than `MOST_SEEDS` are needed, because the margin is then too small to resolve,
    or without any spread to tell it from.
    """
    if sd == 0:
        return None

    def enough(seeds: int) -> bool:
        return flat_power(arms, seeds, margin / sd) >= POWER

    counts = range(2, MOST_SEEDS + 1)  # one seed is never enough: it has no spread
    place = bisect_left(counts, True, key=enough)
    return counts[place] if place < len(counts) else None
