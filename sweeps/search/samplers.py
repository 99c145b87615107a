"""Which point comes next: Optuna's samplers, seeded by a trial's number; no point twice."""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, final

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler
from optuna.trial import FrozenTrial

from sweeps.config.distinct_points import Identity, identity, is_whole
from sweeps.config.search_config import SearchConfig
from sweeps.config.space import Point, SpaceConfig
from sweeps.search.attempts import NUMBER, is_void, point_of
from sweeps.search.draft import Draft
from sweeps.search.optuna_compat import queued_params

MODEL_TRIES, RANDOM_TRIES = 10, 10
"""How often a point is drawn that is known already, by the sampler and then at random."""

GP_TRIES = 3
"""A Gaussian process is fitted anew for each."""


class Exhausted(Exception):
    """No point was found that the study does not have."""


@final
class DistinctSampler(BaseSampler):
    """Draws the whole point of a trial at once, and again where the study has it already: a trial
    is a function of its point.

    What is drawn follows from the seed, the trial's number and the trials on record, and from
    nothing that a process keeps: a search that was killed goes on as the whole one. The first
    points are those of ``search.start``; what they leave out is drawn.
    """

    def __init__(
        self, study: optuna.Study, space: SpaceConfig, search: SearchConfig, seed: int
    ) -> None:
        self._study, self._space, self._search, self._seed = study, space, search, seed
        self._drawn: Point = {}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Draw the point; how each of its parameters was drawn.

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
        """The point."""
        return self._drawn

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """What a space has that was not asked for its point: a replicate's seed, never drawn."""
        return RandomSampler(self._seed_of(trial, 0)).sample_independent(
            study, trial, param_name, param_distribution
        )

    def _drafts(
        self, study: optuna.Study, trial: FrozenTrial, tried: set[Identity]
    ) -> Iterator[Draft]:
        """The sampler's own points; then random ones; then without regard to a starting point,
        which may have been tried; and of a finite space at last one of those that are left."""
        start, number = self._search.start, _number(trial)
        given = start[number].given() if number < len(start) else {}
        queued = queued_params(trial)
        own = GP_TRIES if self._search.sampler == "gp" else MODEL_TRIES
        for attempt in range(own + 2 * RANDOM_TRIES):
            fixed = given if attempt < own + RANDOM_TRIES else {}
            seed = self._seed_of(trial, attempt)
            sampler: BaseSampler = RandomSampler(seed)
            if attempt < own:
                sampler = self._sampler(study, trial, attempt)
            yield self._draft(study, trial, sampler, {**fixed, **queued})
        left = [point for point in self._left() if identity(self._space, point) not in tried]
        if left:
            chosen = random.Random(self._seed_of(trial, -1)).choice(left)
            yield self._draft(study, trial, RandomSampler(0), {**chosen, **queued})

    def _draft(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        sampler: BaseSampler,
        fixed: Mapping[str, Any],
    ) -> Draft:
        draft = Draft(study, trial, sampler, fixed)
        self._space.suggest(draft)
        return draft

    def _sampler(self, study: optuna.Study, trial: FrozenTrial, attempt: int) -> BaseSampler:
        if self._search.sampler == "qmc":
            from sweeps.search.sobol import SobolSampler  # SciPy's statistics take a second

            place, dimensions = _number(trial) + attempt, len(self._space.parameters()) + 1
            return SobolSampler(_digest(self._seed), place, dimensions)
        sampler = build_sampler(self._search, self._seed_of(trial, attempt))
        if isinstance(sampler, NSGAIISampler):
            # Parents are chosen once, kept in the study, and read from there in another order.
            sampler.get_parent_population(study, sampler.get_trial_generation(study, trial))
        return sampler

    def _left(self) -> list[Point]:
        try:
            return self._space.grid()
        except ValueError:  # endlessly many
            return []

    def _tried(self, trial: FrozenTrial) -> set[Identity]:
        """The points of all trials, whatever became of them. A failure that the point can be
        blamed for would come again, and one that it cannot is what `retry` is for."""
        others = self._study.get_trials(deepcopy=False)
        points = [point_of(t) for t in others if t.number != trial.number and not is_void(t)]
        return {
            identity(self._space, point)
            for point in points
            if is_whole(point) and "stage" not in point
        }

    def _seed_of(self, trial: FrozenTrial, attempt: int) -> int:
        return _digest(self._seed, _number(trial), attempt)


def _number(trial: FrozenTrial) -> int:
    return int(trial.user_attrs.get(NUMBER, trial.number))


def _digest(*parts: int) -> int:
    """A seed of 32 bits; neighbouring numbers give unrelated ones."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def build_sampler(search: SearchConfig, seed: int) -> BaseSampler:
    """Optuna's sampler by name, for one draw; `SobolSampler` stands for its own of qmc.

    All points of a grid are queued (see `sweeps.search.pending_trials`), so its sampler has
    nothing to do: Optuna's own ends a study by a call that only works within `optimize`.
    """
    with warnings.catch_warnings():
        # Multivariate TPE has been "experimental" for years and is what Optuna advises.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match search.sampler:
            case "random" | "grid" | "qmc":
                return RandomSampler(seed=seed)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=search.startup_trials)
            case "nsga2":
                return NSGAIISampler(seed=seed, population_size=search.startup_trials)
            case "tpe":
                return optuna.samplers.TPESampler(
                    seed=seed,
                    n_startup_trials=search.startup_trials,
                    multivariate=True,
                    group=True,
                    constant_liar=True,
                )
