"""A drawn point that is not recorded yet, so that it can be discarded and redrawn."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from sweeps.config.space import Point
from sweeps.search.optuna_compat import contains


@final
class Draft:
    """Draws like an Optuna trial (see `optuna.trial.Trial._suggest`), without recording anything.

    ``fixed``: values that are given. ``params`` and ``distributions``: the drawn values.
    """

    def __init__(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        sampler: BaseSampler,
        fixed: Mapping[str, Any],
    ) -> None:
        together = sampler.infer_relative_search_space(study, trial)
        self._fixed, self._together = fixed, sampler.sample_relative(study, trial, together)
        self._alone = partial(sampler.sample_independent, study, trial)
        self.params: Point = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number in a range."""
        value: float = self._take(name, FloatDistribution(low, high, log=log, step=step), low)
        return value

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of the choices."""
        return self._take(name, CategoricalDistribution(choices), choices[0])

    def _take(self, name: str, distribution: BaseDistribution, first: Any) -> Any:
        if name in self._fixed:
            value = self._fixed[name]
        elif distribution.single():
            value = first
        # A range may have had other ends when the trials were run that a sampler goes by.
        elif name in self._together and contains(distribution, self._together[name]):
            value = self._together[name]
        else:
            value = self._alone(name, distribution)
        self.params[name], self.distributions[name] = value, distribution
        return value
