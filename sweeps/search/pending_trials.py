"""Which trials of a search still have to run: sampled or grid points, then replicates."""

from __future__ import annotations

from typing import Any, final

import optuna
from optuna.trial import FrozenTrial

from sweeps.config.distinct_points import trials_left
from sweeps.config.space import Point, SpaceConfig
from sweeps.config.sweep_config import SweepConfig
from sweeps.report.trial_row import best_first, distinct
from sweeps.search.attempts import (
    REQUEST,
    Lineage,
    finished_trials,
    queue_points,
    recorded_params,
    retried,
)
from sweeps.search.design import FRESH_SEEDS_FROM, MOST, REPLICATE, STAGES
from sweeps.search.optuna_compat import queued_params, stored
from sweeps.search.trial_records import own_rows, trial_rows


@final
class SearchSpace:
    """A search space whose points may carry the seed and stage of a replicate."""

    def __init__(self, space: SpaceConfig) -> None:
        self._space = space

    def suggest(self, trial: optuna.Trial) -> Point:
        """The sampler's point, a replicate's queued one, or a fork's."""
        if Lineage.of(trial) is not None:
            return recorded_params(trial)
        point = self._space.suggest(trial)
        if "stage" in queued_params(stored(trial)):
            point["seed"] = trial.suggest_int("seed", 0, MOST)
            point["stage"] = trial.suggest_categorical("stage", STAGES)
        return point

    def point(self, params: dict[str, Any]) -> Point:
        """The point that a trial's stored parameters describe."""
        return self._space.point(params)


def queue_missing(study: optuna.Study, config: SweepConfig, domain: str) -> int:
    """How many trials are to be run now; those whose points are known are queued. Replicates come
    once the search itself has ended: ask again then."""
    if config.search.sampler == "grid":
        missing = queue_points(study, config.space_of(domain).grid())
    else:
        points = [trial.params for trial in finished_own(study)]
        forks = {trial.number for trial in _added(study) if Lineage.of(trial)}
        trials = config.search.trials + len(_added(study)) - len(forks)
        missing = trials_left(trials, config.space_of(domain), points)
        missing += len(forks - {trial.number for trial in finished_trials(study)})
    return missing or queue_points(study, replicates(study, config))


def finished_own(study: optuna.Study) -> list[FrozenTrial]:
    """The search's own trials that need no further work, without replicates and forks."""
    return [trial for trial in finished_trials(study) if not _has_stage(trial)]


def _has_stage(trial: FrozenTrial) -> bool:
    return "stage" in recorded_params(trial) or "stage" in queued_params(trial)


def _added(study: optuna.Study) -> list[FrozenTrial]:
    """The latest attempts of the trials that a person added."""
    superseded, trials = retried(study), study.get_trials(deepcopy=False)
    return [t for t in trials if REQUEST in t.user_attrs and t.number not in superseded]


def replicates(study: optuna.Study, config: SweepConfig) -> list[Point]:
    """The best points of a finished search, each with seeds that none of its trials used."""
    asked = config.search.replicates
    if asked is None:
        return []
    first = config.seed + FRESH_SEEDS_FROM
    chosen = distinct(best_first(own_rows(trial_rows(study, config.seed))))[: asked.best]
    params = {trial.user_attrs.get("key"): trial.params for trial in study.get_trials()}
    return [
        {**params[row.key], "seed": seed, "stage": REPLICATE}
        for row in chosen
        for seed in range(first, first + asked.seeds)
    ]
