"""A trial is a function of its point: no point is trained twice, and a finite space has an end."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from sweeps.config.load import parse_config
from sweeps.config.sweep_config import SweepConfig
from sweeps.execution.optuna_searcher import FINISHED, StudySearch
from sweeps.search.attempt_records import finished_trials, mark_interrupted, queue_interrupted
from sweeps.search.pending_trials import SearchSpace, queue_missing
from sweeps.search.samplers import DistinctSampler
from sweeps.search.trial_counts import workload
from sweeps.search.trial_records import trial_rows
from tests.sweeps.jobs import trial_job

pytestmark = pytest.mark.usefixtures("quiet_optuna")

Tree = dict[str, Any]
SAMPLERS = ["random", "qmc", "tpe", "gp", "nsga2"]
EIGHT = {
    "mask_ratio": [0.0, 0.2, 0.4, 0.6],
    "accumulation_interval": [1, 2],
    "learning_rate": 1e-3,
}
SOME = {"mask_ratio": [0.2, 0.4], "accumulation_interval": [1, 2]}
METHODS = {"method": ["sft", "gmt", "hft"], **SOME, "learning_rate": 1e-3}
WIDE = {**EIGHT, "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}


def sweep(tree: Tree, space: Tree = EIGHT, **search: Any) -> SweepConfig:
    asked = {"trials": 16, "sampler": "random", **search}
    return parse_config({**tree, "space": space, "search": asked})


class Session:
    """A search, `at_once` trials side by side, as Tune would run them; it can be begun again."""

    def __init__(self, config: SweepConfig, study: optuna.Study | None = None) -> None:
        self.config = config
        self.study = study or optuna.create_study(direction="maximize")
        space, search = config.space_of("sums"), config.search
        self.study.sampler = DistinctSampler(self.study, space, search, config.seed)
        self.search = StudySearch(
            self.study,
            SearchSpace(space),
            trial_job,
        )
        self.points: list[Tree] = []

    def run(self, at_once: int = 1, result: Tree | None = None, most: int = 1000) -> None:
        """Until no trial comes any more; each ends with a score of its own, or with `result`."""
        running: list[tuple[str, Tree]] = []
        last = len(self.points) + queue_missing(self.study, self.config, "sums")
        while len(self.points) < most:
            is_full = len(self.points) == last  # as a batch of trials is
            job = FINISHED if is_full else self.search.suggest(f"t{len(self.points)}")
            if not isinstance(job, str):
                running.append((f"t{len(self.points)}", job["job"].point))
                self.points.append(job["job"].point)
            if isinstance(job, str) and not running:
                break
            if isinstance(job, str) or len(running) == at_once:
                self.end(*running.pop(0), result)

    def end(self, trial_id: str, point: Tree, result: Tree | None) -> None:
        score = point["mask_ratio"] - 0.01 * point["accumulation_interval"]
        last = {"state": "finished", "score": score, "step": 8, "steps": 8}
        self.search.on_trial_complete(trial_id, result or last)


def different(points: list[Tree]) -> int:
    return len({tuple(sorted(point.items())) for point in points})


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("name", SAMPLERS)
def test_sixteen_trials_of_eight_points_are_eight_and_a_good_end(
    tree: Tree, name: str, at_once: int
) -> None:
    config = sweep(tree, sampler=name, startup_trials=2)
    session = Session(config)
    assert config.search_trials("sums") == 8
    assert queue_missing(session.study, config, "sums") == 8
    session.run(at_once)
    assert len(session.points) == different(session.points) == 8
    trials = session.study.trials  # what was drawn again is on no record
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 8
    assert [trial.user_attrs["number"] for trial in trials] == list(range(8))
    work = workload(config, "sums", trial_rows(session.study, 0))
    assert (work.total, work.done, work.left) == (8, 8, 0)
    assert queue_missing(session.study, config, "sums") == 0
    again = Session(config, session.study)
    again.run()
    assert again.points == []


@pytest.mark.parametrize("name", SAMPLERS)
def test_methods_without_a_ratio_are_one_point_each(tree: Tree, name: str) -> None:
    config = sweep(tree, METHODS, sampler=name, startup_trials=2)
    session = Session(config)
    session.run(at_once=2)
    assert len(session.points) == different(session.points) == 2 + 4 + 2


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_search_of_a_part_of_the_space_has_no_point_twice(tree: Tree, name: str) -> None:
    space = {**EIGHT, "learning_rate": [1e-3, 2e-3, 3e-3]}
    session = Session(sweep(tree, space, sampler=name, startup_trials=2, trials=14))
    session.run(at_once=2)
    assert len(session.points) == different(session.points) == 14


@pytest.mark.parametrize(
    "result",
    [
        {"score": 0.1, "step": 4, "steps": 8},
        {"state": "failed", "kind": "oom", "failure": "out of memory"},
        {"state": "diverged", "score": None},
        {"state": "failed", "kind": "infrastructure", "failure": "its workers were lost"},
    ],
)
def test_what_was_stopped_or_failed_is_not_drawn_again(tree: Tree, result: Tree) -> None:
    config = sweep(tree)
    session = Session(config)
    session.run(result=result, most=5)
    failed, rest = session.points, Session(config, session.study)
    rest.run()
    assert len(rest.points) == 3
    assert different([*failed, *rest.points]) == 8
    assert len(finished_trials(session.study)) == 8
    assert workload(config, "sums", trial_rows(session.study, 0)).left == 0


def test_what_was_interrupted_runs_again_and_is_not_drawn_beside(tree: Tree) -> None:
    config = sweep(tree)
    session = Session(config)
    session.run(most=5)
    (lost,) = [session.search.suggest(name) for name in ["lost"]]
    mark_interrupted(session.study)
    assert queue_interrupted(session.study) == 1
    assert queue_missing(session.study, config, "sums") == 3
    rest = Session(config, session.study)
    rest.run(at_once=2)
    assert isinstance(lost, dict)
    assert rest.points[0] == lost["job"].point
    assert len(rest.points) == 3
    assert different([*session.points, *rest.points]) == 8


def test_an_older_study_that_has_a_point_twice_ends_with_each_once_more(tree: Tree) -> None:
    config = sweep(tree)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(0))
    older = StudySearch(study, config.space, trial_job)
    for number in range(10):
        older.suggest(str(number))
        older.on_trial_complete(str(number), {"state": "finished", "score": 0.5, "step": 1})
    known = different([trial.params for trial in study.trials])
    assert known < 8
    work = workload(config, "sums", trial_rows(study, 0))
    assert work.left == queue_missing(study, config, "sums") == min(6, 8 - known)
    session = Session(config, study)
    session.run()
    assert different([trial.params for trial in study.trials]) == 8
    assert workload(config, "sums", trial_rows(study, 0)).left == 0


def test_starting_points_come_first_and_what_they_leave_out_is_drawn(tree: Tree) -> None:
    start = [{"mask_ratio": 0.6, "accumulation_interval": 2, "learning_rate": 1e-3}]
    start += [{"mask_ratio": 0.2}] * 3  # of which there are two points only
    session = Session(sweep(tree, start=start, trials=8))
    session.run()
    assert session.points[0] == start[0]
    assert [point["mask_ratio"] for point in session.points[1:3]] == [0.2, 0.2]
    assert session.points[3]["mask_ratio"] != 0.2
    assert different(session.points) == 8


def test_a_rate_on_a_grid_is_the_same_one_in_its_last_bit(tree: Tree) -> None:
    rates = {"low": 1e-3, "high": 4e-3, "step": 1e-3}
    space = {"mask_ratio": 0.2, "accumulation_interval": 1, "learning_rate": rates}
    typed = [{"mask_ratio": 0.2, "accumulation_interval": 1, "learning_rate": 3e-3}]
    config = sweep(tree, space, start=typed)
    session = Session(config)
    session.run()
    assert len(session.points) == config.search_trials("sums") == 4
    assert {round(1000 * point["learning_rate"], 6) for point in session.points} == {1, 2, 3, 4}


def test_a_space_without_an_end_that_gives_one_point_only_ends_too(tree: Tree) -> None:
    """Two neighbours among the floats: finite, although no range says so."""
    rates = {"low": 1e-3, "high": 1.0000000000000002e-3}
    space = {"mask_ratio": 0.2, "accumulation_interval": 1, "learning_rate": rates}
    session = Session(sweep(tree, space))
    session.run(most=10)
    assert 1 <= len(session.points) == different(session.points) <= 2
    assert session.search.suggest("more") == FINISHED
    rows = trial_rows(session.study, 0)
    assert [row.state for row in rows] == ["finished"] * len(session.points)
    assert len(finished_trials(session.study)) == len(rows)


@pytest.mark.parametrize("name", SAMPLERS)
def test_redrawing_keeps_the_end_points_of_an_endless_space(tree: Tree, name: str) -> None:
    session = Session(sweep(tree, WIDE, sampler=name, startup_trials=3, trials=9))
    session.run()
    assert different(session.points) == 9
    for point in session.points:
        assert 1e-4 <= point["learning_rate"] <= 1e-2
