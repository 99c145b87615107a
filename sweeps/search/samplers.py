"""Draw the next point: Optuna's samplers, seeded by the trial's number, without duplicates."""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Any, final

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import (
    BaseGASampler,
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial

from sweeps.config.search_config import SearchConfig
from sweeps.config.search_space import Identity, Point, SpaceConfig, identity, is_whole
from sweeps.search.attempt_records import REQUEST, draw_index, is_foreign, is_void, point_of
from sweeps.search.optuna_compat import contains, queued_params
from sweeps.storage.errors import UserError

MODEL_ATTEMPTS, RANDOM_ATTEMPTS = 10, 10
"""How often to redraw a known point: with the sampler, then at random."""

GP_ATTEMPTS = 3
"""Fewer, because a Gaussian process is refitted for each."""


@final
class Draft:
    """Draws like an Optuna trial (see `optuna.trial.Trial._suggest`), without recording anything.

    ``params`` and ``distributions``: the drawn values of a point of ``space``.
    """

    def __init__(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        sampler: BaseSampler,
        space: SpaceConfig,
        fixed: Mapping[str, Any],
    ) -> None:
        """Draw the point. ``fixed``: values that are given."""
        together = sampler.infer_relative_search_space(study, trial)
        self._fixed, self._together = fixed, sampler.sample_relative(study, trial, together)
        self._alone = partial(sampler.sample_independent, study, trial)
        self.params: Point = {}
        self.distributions: dict[str, BaseDistribution] = {}
        space.suggest(self)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number in a range."""
        value: float = self._take(name, FloatDistribution(low, high, log=log, step=step), low)
        if step is not None:  # 3 * 0.1 is 0.30000000000000004: the decimal that a user would type
            value = self.params[name] = float(f"{value:.15g}")
        return value

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """A whole number in a range."""
        value: int = self._take(name, IntDistribution(low, high, log=log, step=step), low)
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


class Exhausted(Exception):
    """The study already has every point."""


@final
class DistinctSampler(RandomSampler):
    """Draws a trial's whole point at once, and redraws it if the study already has it.

    A draw depends only on the seed, the trial's number and the recorded trials, not on process
    state, so a killed search continues as if uninterrupted. The points of ``search.start`` come
    first; the parameters they leave out are drawn.
    """

    def __init__(
        self, study: optuna.Study, space: SpaceConfig, search: SearchConfig, seed: int
    ) -> None:
        super().__init__(seed)  # draws parameters outside the point, whose values are not used
        self._study, self._space, self._search, self._seed = study, space, search, seed
        self._drawn: Point = {}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Draw the point; returns the distribution of each parameter.

        Raises:
            Exhausted: the study has every point.
        """
        tried = self._tried(trial)
        for draft in self._drafts(study, trial, tried):
            if identity(self._space, draft.params) not in tried:
                self._drawn = draft.params
                return draft.distributions
        raise Exhausted

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The point drawn above."""
        return self._drawn

    def _drafts(
        self, study: optuna.Study, trial: FrozenTrial, tried: set[Identity]
    ) -> Iterator[Draft]:
        """Candidate points, in order of preference.

        First the sampler's own, then random ones, then random ones without the starting point
        (which may be taken), and last, in a finite space, one of the remaining points.
        """
        index = draw_index(self._study, trial)
        # The trials of a point's seeds follow each other.
        start, place = self._search.start, index // self._search.replicates
        asked = [1] if REQUEST in trial.user_attrs else []
        given = start[place] if place < len(start) and not asked else {}
        queued = queued_params(trial)
        own = GP_ATTEMPTS if self._search.sampler == "gp" else MODEL_ATTEMPTS
        for attempt in range(own + 2 * RANDOM_ATTEMPTS):
            fixed = given if attempt < own + RANDOM_ATTEMPTS else {}
            seed = _digest(self._seed, index, attempt, *asked)
            sampler: BaseSampler = RandomSampler(seed)
            if attempt < own:
                sampler = self._sampler(study, trial, seed, place + attempt)
            yield Draft(study, trial, sampler, self._space, {**fixed, **queued})
        left = [point for point in self._left() if identity(self._space, point) not in tried]
        if left:
            chosen = random.Random(_digest(self._seed, index, -1, *asked)).choice(left)
            yield Draft(study, trial, RandomSampler(0), self._space, {**chosen, **queued})

    def _sampler(
        self, study: optuna.Study, trial: FrozenTrial, seed: int, place: int
    ) -> BaseSampler:
        """One for one draw. ``place``: in the sequence of a sampler that has one."""
        if self._search.sampler == "qmc":
            from sweeps.search.sobol import SobolSampler  # importing scipy.stats takes a second

            return SobolSampler(_digest(self._seed), place, len(self._space.parameters()))
        sampler = build_sampler(self._search, seed)
        if isinstance(sampler, BaseGASampler):
            # Select the parents now: once stored in the study, they are read in another order.
            sampler.get_parent_population(study, sampler.get_trial_generation(study, trial))
        return sampler

    def _left(self) -> list[Point]:
        try:
            return self._space.grid()
        except ValueError:  # an infinite space
            return []

    def _tried(self, trial: FrozenTrial) -> set[Identity]:
        """The points of the search's trials, whatever their outcome.

        A failure caused by the point would repeat; for other failures there is `retry`.
        """
        others = self._study.get_trials(deepcopy=False)
        points = [
            point_of(t)
            for t in others
            if t.number != trial.number and not is_void(t) and not is_foreign(t)
        ]
        return {
            identity(self._space, point)
            for point in points
            if is_whole(self._space, point) and "stage" not in point
        }


def _digest(*parts: int) -> int:
    """A 32-bit seed; neighbouring numbers give unrelated seeds."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def build_sampler(search: SearchConfig, seed: int) -> BaseSampler:
    """Optuna's sampler with this name, for one draw; `SobolSampler` replaces its qmc sampler.

    A grid's points are all queued (see `sweeps.search.pending_trials`), so its sampler is never
    used. Optuna's own grid sampler ends a study by a call that only works within `optimize`.

    Raises:
        UserError: the sampler's package is missing, or ``module:Class`` is no sampler.
    """
    with warnings.catch_warnings():
        # Multivariate TPE has been "experimental" for years and is what Optuna advises.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match search.sampler:
            case "random" | "grid" | "qmc":
                return RandomSampler(seed=seed)
            case "gp":
                return GPSampler(
                    seed=seed,
                    n_startup_trials=search.startup_trials,
                    warn_independent_sampling=False,
                )
            case "cmaes":
                return _cmaes(search.startup_trials, seed)
            case "nsga2":
                return NSGAIISampler(seed=seed, population_size=search.startup_trials)
            case "nsga3":
                return NSGAIIISampler(seed=seed, population_size=search.startup_trials)
            case "tpe":
                return TPESampler(
                    seed=seed,
                    n_startup_trials=search.startup_trials,
                    multivariate=True,
                    group=True,
                    constant_liar=True,
                )
            case name:
                return _custom(name, seed)


def _cmaes(startup_trials: int, seed: int) -> BaseSampler:
    if find_spec("cmaes") is None:
        raise UserError(
            "search.sampler: cmaes requires the package cmaes, which is not installed; install it "
            "(pip install cmaes), or choose another sampler, such as tpe"
        )
    return CmaEsSampler(
        seed=seed, n_startup_trials=startup_trials, warn_independent_sampling=False
    )


def _custom(name: str, seed: int) -> BaseSampler:
    """An own sampler, built anew for each draw: it keeps no state but the study's trials."""
    expected = "expected module:Class, a subclass of optuna.samplers.BaseSampler"
    try:
        found = resolve_name(name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"search.sampler {name}: {error}; {expected}") from None
    if not (isinstance(found, type) and issubclass(found, BaseSampler)):
        raise UserError(f"search.sampler {name}: {expected}, got {found!r:.80}")
    try:
        sampler: BaseSampler = found(seed=seed)  # type: ignore[call-arg]
    except TypeError as error:
        raise UserError(
            f"search.sampler {name}: expected a constructor that takes a seed ({error})"
        ) from None
    return sampler
