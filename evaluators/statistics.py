"""Uncertainty of scores: standard errors, paired comparison, unbiased pass@k."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a - b over the same items, with a percentile interval at `confidence`."""

    mean: float
    low: float
    high: float
    confidence: float


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


def paired_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Percentile bootstrap of mean(a - b), resampling items; `a[i]` and `b[i]` share item i."""
    if len(a) != len(b) or not a:
        raise ValueError(
            f"Paired scores must have the same length and not be empty, found {len(a)}, {len(b)}"
        )
    difference = torch.tensor(a, dtype=torch.float64) - torch.tensor(b, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    count = len(difference)
    # Chunks bound the memory: a full table for MMLU would take a gigabyte.
    chunk = max(1, 2**22 // count)
    means = [
        difference[torch.randint(count, (size, count), generator=generator)].mean(dim=1)
        for size in _chunks(resamples, chunk)
    ]
    tail = (1 - confidence) / 2
    bounds = torch.quantile(torch.cat(means), torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return PairedDifference(
        float(difference.mean()), float(bounds[0]), float(bounds[1]), confidence
    )


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased probability that one of k samples passes, from `correct` of `n` that did.

    Chen et al. 2021, equation 1: 1 - C(n - c, k) / C(n, k).
    """
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(
            f"pass@k needs 0 <= correct <= n and 1 <= k <= n, found n={n}, c={correct}, k={k}"
        )
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def _chunks(total: int, size: int) -> list[int]:
    """`total` as a list of parts of at most `size`."""
    return [min(size, total - start) for start in range(0, total, size)]
