"""A quasi-random sequence in which each point depends only on its index."""

from __future__ import annotations

import math
from typing import Any, final

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial
from scipy.stats.qmc import Sobol


@final
class SobolSampler(RandomSampler):
    """One point of a scrambled Sobol sequence; each parameter takes the next coordinate.

    Optuna's own sampler stores its position in the study, so a trial killed before it has a point
    uses one up. It also draws parameters that the first finished trial lacks at random.
    """

    def __init__(self, seed: int, place: int, dimensions: int) -> None:
        super().__init__(seed)  # it draws no parameters jointly
        sequence = Sobol(dimensions, scramble=True, rng=seed)
        if place:
            sequence.fast_forward(place)
        self._coordinates = iter(sequence.random(1)[0].tolist())

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The value at the next coordinate, a number in [0, 1)."""
        return _at(next(self._coordinates), param_distribution)


def _at(coordinate: float, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(coordinate * len(distribution.choices))]
    assert isinstance(distribution, FloatDistribution | IntDistribution)  # there are no others
    low, high, step = distribution.low, distribution.high, distribution.step
    if distribution.log:
        value = min(high, max(low, low * math.exp(coordinate * math.log(high / low))))
        return round(value) if isinstance(distribution, IntDistribution) else value
    if step is not None:
        return min(high, low + step * int(coordinate * (round((high - low) / step) + 1)))
    return low + coordinate * (high - low)
