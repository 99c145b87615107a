"""Compare two methods on the same questions: their difference with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sweeps.report.arms import Interval, TooFewScores

Array = NDArray[np.float64]
CHUNK = 2**22
"""Values drawn at a time; a full table would take gigabytes for a large benchmark."""


def question_bootstrap(
    a: Array,
    b: Array,
    weights: Array | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The mean of a - b with a percentile interval; a drawn question brings all of its seeds.

    `a`, `b`: (questions, seeds), aligned. `weights`: (questions,), such as the bytes of a
    reference if scores are bits per byte. The interval covers new questions for these trained
    models; the intervals over seeds cover the spread between seeds.

    Raises:
        TooFewScores: fewer than two questions.
        ValueError: the shapes differ.
    """
    parts = [(a, b, np.ones(len(a)) if weights is None else weights)]
    return stratified_bootstrap(parts, confidence=confidence, resamples=resamples, seed=seed)


def stratified_bootstrap(
    parts: Sequence[tuple[Array, Array, Array]],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The mean difference over several benchmarks; questions are drawn within each benchmark.

    `parts`: (a, b, weights) of each benchmark, as in `question_bootstrap`.

    Raises:
        TooFewScores, ValueError: as `question_bootstrap`.
    """
    random = np.random.default_rng(seed)
    found = [_resampled(*part, resamples, random) for part in parts]
    means = np.mean([drawn for _, drawn in found], axis=0)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(np.mean([mean for mean, _ in found])), float(low), float(high))


def _resampled(
    a: Array, b: Array, weights: Array, resamples: int, random: np.random.Generator
) -> tuple[float, Array]:
    """The weighted mean of a - b, and the same for each resample."""
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"expected two equal shapes (questions, seeds), got {a.shape}, {b.shape}")
    count = len(a)
    if count < 2:
        raise TooFewScores(f"{count} question: a bootstrap over questions requires two or more")
    weight = np.asarray(weights, dtype=float)
    difference = (a - b).mean(axis=1) * weight
    means = []
    chunk = max(1, CHUNK // count)
    for start in range(0, resamples, chunk):
        drawn = random.integers(count, size=(min(chunk, resamples - start), count))
        means.append(difference[drawn].sum(axis=1) / weight[drawn].sum(axis=1))
    return float(difference.sum() / weight.sum()), np.concatenate(means)
