"""Uncertainty of scores: standard errors, intervals, exact tests, unbiased pass@k."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import NormalDist


def mean_and_standard_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error s / sqrt(n); the error of a single value is unknown: NaN."""
    count = len(values)
    if count == 0:
        raise ValueError("No values to average; expected at least one")
    mean = math.fsum(values) / count
    if count == 1:
        return mean, math.nan
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, math.sqrt(variance / count)


def clustered_standard_error(values: Sequence[float], clusters: Sequence[str]) -> float:
    """Standard error of the mean where the values of one cluster share a source.

    Liang and Zeger 1986 with the factor C / (C - 1): sqrt(C / (C - 1) sum_c (sum_i e_ci)^2) / n,
    which is s / sqrt(n) for clusters of one. NaN for a single cluster.
    """
    mean, _ = mean_and_standard_error(values)
    sums: dict[str, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += value - mean
    count = len(sums)
    if count < 2:
        return math.nan
    total = math.fsum(value**2 for value in sums.values())
    return math.sqrt(count / (count - 1) * total) / len(values)


def mean_over_groups(
    values: Sequence[float], groups: Sequence[str], clusters: Sequence[str]
) -> tuple[float, float]:
    """The mean of the groups' means and its standard error, each group sampled by itself.

    A group of one cluster has no known error, so the whole has none: NaN.
    """
    parts: dict[str, tuple[list[float], list[str]]] = {}
    for value, group, cluster in zip(values, groups, clusters, strict=True):
        members, names = parts.setdefault(group, ([], []))
        members.append(value)
        names.append(cluster)
    if not parts:
        raise ValueError("No values to average; expected at least one")
    means = [math.fsum(members) / len(members) for members, _ in parts.values()]
    variances = [clustered_standard_error(*part) ** 2 for part in parts.values()]
    return math.fsum(means) / len(means), math.sqrt(math.fsum(variances)) / len(means)


def normal_interval(
    mean: float, standard_error: float, confidence: float = 0.95
) -> tuple[float, float]:
    """mean -/+ z standard errors; NaN where the error is unknown."""
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * standard_error
    return mean - reach, mean + reach


def interval_of_mean(parts: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Interval of the mean of independent estimates, each given as (estimate, low, high).

    Square-and-add (Zou and Donner 2008): on each side, the reach is the root of the sum of the
    parts' squared reaches, divided by their number. One part keeps its own interval; NaN if one
    of them is.
    """
    mean = math.fsum(estimate for estimate, _, _ in parts) / len(parts)
    below = math.hypot(*(estimate - low for estimate, low, _ in parts)) / len(parts)
    above = math.hypot(*(high - estimate for estimate, _, high in parts)) / len(parts)
    return mean - below, mean + above


def independent_number(clusters: Sequence[str], groups: Sequence[str] | None = None) -> float:
    """How many independent values the mean of equal ones is worth: 1 / max_c w_c.

    w_c is the share of a cluster in the mean over all values; in the mean of the groups' means,
    where `groups` are given. Values that are all 0 are then no likelier, at any true mean, than
    as many independent zeros: what was missed may all lie in the heaviest cluster.
    """
    shares: dict[tuple[str, str], float] = defaultdict(float)
    names = groups or [""] * len(clusters)
    sizes = Counter(names)
    for group, cluster in zip(names, clusters, strict=True):
        shares[group, cluster] += 1 / (sizes[group] * len(sizes))
    return 1 / max(shares.values())


def wilson_interval(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927): within [0, 1], also for none or all of `n`.

    For the mean of scores between 0 and 1 it is at least as wide as it need be, since no such
    scores of that mean spread further than right and wrong.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n and n >= 1, found {successes} of {n}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, weight = successes / n, z * z / n
    centre = (rate + weight / 2) / (1 + weight)
    reach = z / (1 + weight) * math.sqrt(rate * (1 - rate) / n + weight / (4 * n))
    return max(0.0, centre - reach), min(1.0, centre + reach)


def ratio_standard_error(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Standard error of sum(numerators) / sum(denominators) over sampled pairs.

    The linearised (delta method) estimate; NaN for a single pair.
    """
    count = len(numerators)
    total = math.fsum(denominators)
    if count < 2 or total == 0:
        return math.nan
    ratio = math.fsum(numerators) / total
    residuals = [a - ratio * b for a, b in zip(numerators, denominators, strict=True)]
    variance = math.fsum(value**2 for value in residuals) / (count - 1)
    return math.sqrt(count * variance) / total


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> float:
    """Exact two-sided p-value (McNemar 1947) that a and b are right equally often.

    `a[i]` and `b[i]` tell whether item i was answered rightly; only items on which they differ
    count.
    """
    pairs = list(zip(a, b, strict=True))
    wins = sum(bool(left) and not right for left, right in pairs)
    losses = sum(bool(right) and not left for left, right in pairs)
    n, fewer = wins + losses, min(wins, losses)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    # A quotient of integers: 2**n is too large for a float from n = 1024 on.
    return min(1.0, 2 * tail / (1 << n))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979), in the given order."""
    count = len(p_values)
    adjusted = [0.0] * count
    largest = 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased probability that one of k samples passes, from `correct` of `n` that did.

    Chen et al. 2021, equation 1: 1 - C(n - c, k) / C(n, k).
    """
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(
            f"pass@k needs 0 <= correct <= n and 1 <= k <= n, found n={n}, c={correct}, k={k}"
        )
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)
