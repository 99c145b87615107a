"""Two methods on the same questions: the difference, resampled by question."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sweeps.statistics.arms import Interval, TooFewScores

Array = NDArray[np.float64]
CHUNK = 2**22
"""Values drawn at once: a full table for a large benchmark would take gigabytes."""


def question_bootstrap(
    a: Array,
    b: Array,
    weights: Array | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Mean of a - b with a percentile interval; a question is drawn with all of its seeds.

    `a`, `b`: (questions, seeds), aligned. `weights`: (questions,), such as the bytes of a
    reference where scores are bits per byte. The interval is about new questions for these
    trained models; the spread between seeds is what the intervals over seeds are for.

    Raises:
        TooFewScores: fewer than two questions.
        ValueError: the shapes differ.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"expected two tables (questions, seeds) alike, got {a.shape}, {b.shape}")
    count = len(a)
    if count < 2:
        raise TooFewScores(f"{count} question: a bootstrap over questions needs two or more")
    weight = np.ones(count) if weights is None else np.asarray(weights, dtype=float)
    difference = (a - b).mean(axis=1) * weight
    random = np.random.default_rng(seed)
    means = []
    chunk = max(1, CHUNK // count)
    for start in range(0, resamples, chunk):
        drawn = random.integers(count, size=(min(chunk, resamples - start), count))
        means.append(difference[drawn].sum(axis=1) / weight[drawn].sum(axis=1))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(np.concatenate(means), [tail, 1.0 - tail])
    return Interval(float(difference.sum() / weight.sum()), float(low), float(high))
