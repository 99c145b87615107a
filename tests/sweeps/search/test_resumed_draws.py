"""A search that is killed and resumed draws the very points of the whole one."""

from __future__ import annotations

import random
from typing import Any

import optuna
import pytest

from sweeps.config.search_config import SearchConfig
from sweeps.config.search_space import Draws, Point, SpaceConfig
from sweeps.execution.optuna_searcher import StudySearch
from sweeps.search.attempt_records import finished_trials, mark_interrupted, queue_interrupted
from sweeps.search.samplers import DistinctSampler
from tests.sweeps.jobs import suggested, trial_job

pytestmark = pytest.mark.usefixtures("quiet_optuna")

SAMPLERS = ["random", "qmc", "tpe", "gp", "nsga2"]
TRIALS = 12
WIDE = {
    "mask_ratio": {"low": 0.0, "high": 0.9, "step": 0.1},
    "accumulation_interval": [1, 2],
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
}
SMALL = {"mask_ratio": [0.0, 0.2, 0.4, 0.6], "accumulation_interval": [1, 2, 4, 8]}
SPACES = {
    "endless": SpaceConfig.model_validate(WIDE),
    "small": SpaceConfig.model_validate({**SMALL, "learning_rate": 1e-3}),  # many are drawn again
    "methods": SpaceConfig.model_validate(
        {**WIDE, "method": ["sft", "gmt", "hft"], "mask_ratio": [0.2, 0.4]}
    ),
}
START = [{"mask_ratio": 0.2}, {"learning_rate": 1e-3}]


class Killed(Exception):
    """The session dies here."""


class Dying:
    """A space in which a session dies once ``values`` values of a trial's point are drawn."""

    def __init__(self, space: SpaceConfig, values: int) -> None:
        self._space, self._left = space, values

    def suggest(self, trial: optuna.Trial) -> Point:
        """Die within the point, or when it is whole and nothing of it has begun."""
        self._space.suggest(Counting(trial, self._left))
        raise Killed


class Counting:
    """Draws so many values."""

    def __init__(self, trial: Draws, left: int) -> None:
        self._trial, self._left = trial, left

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Killed

    def suggest_float(self, *given: Any, **named: Any) -> float:
        self._count()
        return self._trial.suggest_float(*given, **named)

    def suggest_int(self, *given: Any, **named: Any) -> int:
        self._count()
        return self._trial.suggest_int(*given, **named)

    def suggest_categorical(self, *given: Any) -> Any:
        self._count()
        return self._trial.suggest_categorical(*given)


def session(
    study: optuna.Study, space: SpaceConfig, sampler: str, dies_after: int | None = None
) -> StudySearch:
    """A new process's searcher."""
    # A Gaussian process takes a second for each point.
    config = {"sampler": sampler, "startup_trials": 9 if sampler == "gp" else 3, "start": START}
    if space.method is not None:
        config["start"] = START[1:]
    search = SearchConfig.model_validate(config)
    study.sampler = DistinctSampler(study, space, search, seed=7)
    return StudySearch(
        study,
        space if dies_after is None else Dying(space, dies_after),
        lambda number, point: trial_job(number, point, key=f"{number}-{point}"),
    )


def score(point: Point) -> float:
    return float(point["mask_ratio"]) - 30 * float(point["learning_rate"])


def finish(search: StudySearch, trial_id: str, point: Point) -> None:
    last = {"state": "finished", "score": score(point), "step": 8, "steps": 8}
    search.on_trial_complete(trial_id, last)


def resume(study: optuna.Study) -> None:
    mark_interrupted(study)
    queue_interrupted(study)


def run(space: SpaceConfig, sampler: str, kills: dict[int, int | None]) -> dict[int, Point]:
    """The points by number, one trial at a time. ``kills``: for trials by number, how many values
    of its point were drawn when the session died; None: it ran already."""
    study = optuna.create_study(direction="maximize")
    search, kills = session(study, space, sampler), dict(kills)
    while (done := len(finished_trials(study))) < TRIALS:
        if done in kills:
            values = kills.pop(done)
            if values is None:
                search.suggest("lost")
            else:
                with pytest.raises(Killed):
                    session(study, space, sampler, values).suggest("lost")
            resume(study)
            search = session(study, space, sampler)
        finish(search, str(done), suggested(search, str(done)).point)
    ended = finished_trials(study)
    return {trial.user_attrs["number"]: space.point(trial.params) for trial in ended}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_at_a_time_draws_the_points_of_the_whole_search(sampler: str, space: str) -> None:
    whole = run(SPACES[space], sampler, {})
    assert sorted(whole) == list(range(TRIALS))
    assert run(SPACES[space], sampler, {0: None, 4: None, 5: None, 11: None}) == whole
    # Killed before a value is drawn, within a point, and when it is whole.
    assert run(SPACES[space], sampler, {0: 1, 1: 0, 3: 2, 7: 0, 9: 1, 10: 9}) == whole


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_side_by_side_the_samplers_that_do_not_learn_do_so_too(sampler: str, space: str) -> None:
    def points(seed: int, kills: int) -> dict[int, Point]:
        chance = random.Random(seed)  # which trial ends next
        moments = set(chance.sample(range(2, TRIALS), kills))
        study = optuna.create_study(direction="maximize")
        search, running = session(study, SPACES[space], sampler), dict[str, Point]()
        asked = 0
        while (done := len(finished_trials(study))) < TRIALS:
            if done in moments:
                moments.remove(done)
                resume(study)
                search, running = session(study, SPACES[space], sampler), {}
            while len(running) < 3 and done + len(running) < TRIALS:
                asked += 1
                running[str(asked)] = suggested(search, str(asked)).point
            ends = chance.choice(sorted(running))
            finish(search, ends, running.pop(ends))
        ended = finished_trials(study)
        return {t.user_attrs["number"]: SPACES[space].point(t.params) for t in ended}

    whole = points(0, 0)
    assert sorted(whole) == list(range(TRIALS))
    assert points(1, 0) == whole
    assert points(2, 3) == whole
