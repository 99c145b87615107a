"""What a search still has to run: the sampler's trials or a grid's points, then replicates."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, final

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeps.config.distinct_points import trials_left
from sweeps.config.space import Point, SpaceConfig
from sweeps.config.sweep_config import SweepConfig
from sweeps.report.trial_row import best_first, distinct
from sweeps.search.attempts import DRIVER, finished_trials, queue_points
from sweeps.search.design import FRESH_SEEDS_FROM, MOST, REPLICATE, STAGES
from sweeps.search.optuna_compat import queued_params, stored
from sweeps.search.trial_records import own_rows, trial_rows


@final
class SearchSpace:
    """A search space, whose points may carry the seed and the stage of a replicate."""

    def __init__(self, space: SpaceConfig) -> None:
        self._space = space

    def suggest(self, trial: optuna.Trial) -> Point:
        """The sampler's point, or the queued one of a replicate."""
        point = self._space.suggest(trial)
        if "stage" in queued_params(stored(trial)):
            point["seed"] = trial.suggest_int("seed", 0, MOST)
            point["stage"] = trial.suggest_categorical("stage", STAGES)
        return point

    def point(self, params: dict[str, Any]) -> Point:
        """The point that a trial's stored parameters stand for."""
        return self._space.point(params)


def queue_missing(
    study: optuna.Study, config: SweepConfig, domain: str, others: Container[str] = ()
) -> int:
    """How many trials are to be run now; those whose points are known are queued.

    ``others``: the ids of other drivers, whose running trials are theirs. Replicates come once
    the search itself has ended, everywhere: ask again then.
    """
    elsewhere = [t for t in _own(study, TrialState.RUNNING) if t.user_attrs.get(DRIVER) in others]
    if config.search.sampler == "grid":
        missing = queue_points(study, config.space_of(domain).grid())
    else:
        missing = _left(config, domain, [*finished_own(study), *elsewhere])
    if missing or elsewhere:
        return missing
    return queue_points(study, replicates(study, config))


def has_unplanned(study: optuna.Study, config: SweepConfig, domain: str) -> bool:
    """Whether the sampler is to draw another point, beside those that are queued."""
    begun = [*finished_own(study), *_own(study, TrialState.RUNNING)]
    return config.search.sampler != "grid" and _left(config, domain, begun) > 0


def _left(config: SweepConfig, domain: str, begun: Sequence[FrozenTrial]) -> int:
    points = [trial.params for trial in begun]
    return trials_left(config.search.trials, config.space_of(domain), points)


def finished_own(study: optuna.Study) -> list[FrozenTrial]:
    """The search's own trials that need no further work; replicates are not among them."""
    return [trial for trial in finished_trials(study) if not _is_replicate(trial)]


def _own(study: optuna.Study, state: TrialState) -> list[FrozenTrial]:
    trials = study.get_trials(deepcopy=False, states=(state,))
    return [trial for trial in trials if not _is_replicate(trial)]


def _is_replicate(trial: FrozenTrial) -> bool:
    return "stage" in trial.params or "stage" in queued_params(trial)


def replicates(study: optuna.Study, config: SweepConfig) -> list[Point]:
    """The best points of a search that has ended, each with seeds that no trial of it had."""
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
