"""Which trials of a search still have to run: sampled or grid points, then fresh seeds."""

from __future__ import annotations

from typing import Any, final

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeps.config.search_space import Point, SpaceConfig, identity, is_whole, trials_left
from sweeps.config.sweep_config import SweepConfig
from sweeps.report.trial_row import FRESH, best_first, distinct
from sweeps.search.attempt_records import (
    NUMBER,
    POINT,
    REQUEST,
    Lineage,
    finished_trials,
    incomplete,
    is_foreign,
    latest_attempts,
    point_of,
    queue_points,
    recorded_params,
)
from sweeps.search.design import FRESH_SEEDS_FROM, MOST, STAGES
from sweeps.search.optuna_compat import queued_params, stored
from sweeps.search.trial_records import own_rows, trial_rows


@final
class SearchSpace:
    """A search space whose points may carry a seed of their own, and its stage."""

    def __init__(self, space: SpaceConfig) -> None:
        self._space = space

    def suggest(self, trial: optuna.Trial) -> Point:
        """The sampler's point, a queued one with its seed, or that of a fork."""
        if Lineage.of(trial) is not None:
            return dict(trial.user_attrs[POINT])
        point = self._space.suggest(trial)
        if "stage" in queued_params(stored(trial)):
            point["seed"] = trial.suggest_int("seed", 0, MOST)
            point["stage"] = trial.suggest_categorical("stage", STAGES)
        return point

    def point(self, params: dict[str, Any]) -> Point:
        """The point that a trial's stored parameters describe."""
        return self._space.point(params)


def queue_missing(study: optuna.Study, config: SweepConfig, domain: str) -> int:
    """How many trials are to be run now; those whose points are known are queued. Fresh seeds come
    once the search itself has ended: ask again then."""
    space, is_grid = config.space_of(domain), config.search.sampler == "grid"
    if is_grid:
        queue_points(study, _untried(study, space))
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    own = [trial for trial in waiting if not _has_stage(trial)]
    points = len(own)
    if not is_grid:
        begun = [trial.params for trial in (*finished_own(study), *incomplete(study))]
        points = trials_left(config.search.trials + _queued(study), space, begun)
    # Queued again, with the other seeds of their points.
    again = sum(NUMBER in trial.user_attrs for trial in own)
    new = max(0, points - again) * config.search.replicates
    return new + again + len(waiting) - len(own) or queue_points(study, fresh(study, config))


def _untried(study: optuna.Study, space: SpaceConfig) -> list[Point]:
    """The points of a grid that no trial has, up to rounding."""
    trials = study.get_trials(deepcopy=False)
    points = [point_of(trial) for trial in trials if not is_foreign(trial)]
    known = {identity(space, point) for point in points if is_whole(space, point)}
    return [point for point in space.grid() if identity(space, point) not in known]


def finished_own(study: optuna.Study) -> list[FrozenTrial]:
    """The search's own trials that need no further work, without other seeds of their points."""
    return [trial for trial in finished_trials(study) if not _has_stage(trial)]


def _has_stage(trial: FrozenTrial) -> bool:
    return "stage" in recorded_params(trial)


def _queued(study: optuna.Study) -> int:
    """How many points of the search a person has queued."""
    return sum(
        REQUEST in trial.user_attrs and not is_foreign(trial) and not _has_stage(trial)
        for trial in latest_attempts(study)
    )


def fresh(study: optuna.Study, config: SweepConfig) -> list[Point]:
    """The best points of a finished search, each with seeds that none of its trials used."""
    asked = config.search.fresh_seeds
    first = config.seed + FRESH_SEEDS_FROM
    chosen = distinct(best_first(own_rows(trial_rows(study, config.seed))))[: asked.best]
    params = {trial.user_attrs.get("key"): trial.params for trial in study.get_trials()}
    return [
        {**params[row.key], "seed": seed, "stage": FRESH}
        for row in chosen
        for seed in range(first, first + asked.seeds)
    ]
