"""Critical values for several comparisons at once that share one estimate of the variance.

Each is the c with P(max |T_i| <= c) = confidence, the expectation over the shared normal and the
shared standard deviation taken by Gauss-Legendre quadrature on their quantiles.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

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
