"""Points, forks and stops that a person asks for: each applied once, and no draw is shifted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from sweeps.config.load import load_config
from sweeps.config.sweep_config import SweepConfig, paths_for, resolve_paths
from sweeps.execution.optuna_searcher import StudySearch
from sweeps.execution.sweep import open_study
from sweeps.execution.trial_batch import FINISHED, BatchSearcher, TrialBatch
from sweeps.execution.trial_jobs import TrialJobs
from sweeps.search.attempt_records import FORK, POINT, Lineage, mark_interrupted, queue_interrupted
from sweeps.search.pending_trials import SearchSpace, queue_missing
from sweeps.search.requests import Inbox, Request, fork_request, queue_request
from sweeps.search.retry import queue_failed
from sweeps.search.trial_counts import workload
from sweeps.search.trial_records import Records, best_row, own_rows, trial_rows
from sweeps.storage.errors import UserError
from sweeps.storage.mailbox import Mailbox
from tests.sweeps.jobs import suggested

Tree = dict[str, Any]
LAST = {"state": "finished", "step": 8, "steps": 8}
ASKED = {"mask_ratio": 0.3, "accumulation_interval": 2, "learning_rate": 0.005}


class Search:
    """The driver's side of a search, without workers."""

    def __init__(self, config: SweepConfig) -> None:
        self.config, self.said = config, list[str]()
        self.study = open_study(config, "sums")
        mark_interrupted(self.study)
        queue_interrupted(self.study)
        self.inbox = Inbox(config, "sums", self.study, self.said.append)
        space = SearchSpace(config.space_of("sums"))
        jobs = TrialJobs(config, "sums", self.study)
        self.searcher = StudySearch(self.study, space, jobs.trial, inbox=self.inbox, checks=4)

    def missing(self) -> int:
        self.inbox.accept()
        return queue_missing(self.study, self.config, "sums")

    def run(self, count: int) -> list[Tree]:
        """The next trials to their end; returns their points."""
        points = []
        for index in range(count):
            job = suggested(self.searcher, str(index))
            score = job.point["learning_rate"]
            self.searcher.on_trial_complete(str(index), LAST | {"score": score})
            points.append(job.point)
        return points

    def post(self, request: Request) -> None:
        Mailbox(paths_for(self.config)).post(request.name(), request.text())

    def queue(self, **values: Any) -> None:
        self.post(queue_request(self.config, "sums", self.study.trials, values))

    def fork(self, number: int, step: int = 2, **values: Any) -> None:
        trials = self.study.trials
        self.post(fork_request(self.config, "sums", trials, number, step, values))


@pytest.fixture
def asked(sweep_files: Path, tree: Tree) -> Any:
    """A search of the sweep's files; ``changes`` replace sections."""

    def build(name: str = "small", **changes: Any) -> Search:
        search = {"trials": 6, "sampler": "random", **changes.pop("search", {})}
        file = sweep_files / f"{name}.yaml"
        file.write_text(json.dumps(tree | {"name": name, "search": search} | changes))
        return Search(resolve_paths(load_config(file)))

    return build


def waiting(search: Search) -> int:
    return len(search.study.get_trials(states=(TrialState.WAITING,)))


def test_a_queued_point_comes_next_and_on_top(asked: Any) -> None:
    search = asked()
    search.run(1)
    search.queue(**ASKED)
    search.queue(mask_ratio=0.4)
    assert search.missing() == 7
    whole, drawn = search.run(2)
    assert whole == ASKED
    assert drawn["mask_ratio"] == 0.4 and 1e-4 <= drawn["learning_rate"] <= 1e-2
    assert search.missing() == 5
    search.run(5)
    assert search.missing() == 0
    rows = trial_rows(search.study, 0)
    assert [row.number for row in rows if row.queued] == [1, 2]
    assert len(own_rows(rows)) == 8
    found = workload(search.config, "sums", rows)
    assert (found.total, found.done) == (8, 8)


def test_a_fork_continues_its_parent_and_is_no_point_of_the_search(asked: Any) -> None:
    search = asked()
    search.run(2)
    parent = trial_rows(search.study, 0)[1]
    search.fork(1, learning_rate=0.02, weight_decay=0.1, mask_ratio=0.0)
    assert search.missing() == 5
    job = suggested(search.searcher, "f")
    assert (job.parent, job.parent_step, job.number) == (parent.key, 2, 2)
    start = paths_for(search.config).fork_starts("sums", parent.key) / "step-0000000002"
    assert job.run.start_from == str(start)
    assert job.run.weight_decay == 0.1 and job.run.method.name == "sft"
    assert job.run.accumulation_interval == parent.accumulation_interval
    search.searcher.on_trial_complete("f", LAST | {"score": 1.0})
    rows = trial_rows(search.study, 0)
    assert (rows[2].state, rows[2].score, rows[2].stage) == ("finished", 1.0, FORK)
    assert (rows[2].parent, rows[2].parent_step) == (1, 2)
    assert rows[2] not in own_rows(rows)
    best = best_row(rows)
    assert best is not None and best.number < 2
    assert search.missing() == 4
    assert workload(search.config, "sums", rows).left == 4


def test_a_fork_of_a_fork_and_of_another_checkpoint_are_others(asked: Any) -> None:
    search = asked()
    search.run(1)
    search.fork(0, learning_rate=0.02)
    search.missing()
    search.run(1)
    with pytest.raises(UserError, match="trial 1 is already this fork"):
        search.fork(0, learning_rate=0.02)
    (fork,) = [trial for trial in search.study.trials if FORK in trial.user_attrs]
    start = Lineage.of(fork)
    search.post(Request("fork", "sums", fork.user_attrs[POINT], lineage=start))
    assert search.inbox.accept() == 0  # made at the same time as the first one
    search.fork(0, step=3, learning_rate=0.02)
    search.fork(1, learning_rate=0.02)
    search.missing()
    search.run(2)
    keys = {row.key.partition("-")[2] for row in trial_rows(search.study, 0)}
    assert len(keys) == 4
    assert [row.parent for row in trial_rows(search.study, 0)] == [None, 0, 0, 1]


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "nsga2"])
def test_forks_shift_no_draw(asked: Any, sampler: str) -> None:
    settings = {"sampler": sampler, "startup_trials": 3, "start": [{"mask_ratio": 0.2}] * 1}
    plain, forked = asked("plain", search=settings), asked("forked", search=settings)
    points = plain.run(6)
    found = forked.run(1)
    for number in range(3):
        forked.fork(0, learning_rate=0.1 * (number + 1))
        forked.missing()
        forked.run(1)
        found += forked.run(1)
    found += forked.run(2)
    assert found == points


@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_queued_points_shift_no_draw_and_take_no_starting_point(asked: Any, sampler: str) -> None:
    settings = {"sampler": sampler, "start": [{"mask_ratio": 0.2}, {"mask_ratio": 0.7}]}
    plain, queued = asked("plain", search=settings), asked("queued", search=settings)
    points = plain.run(5)
    queued.queue(**ASKED)
    queued.missing()
    assert queued.run(1) == [ASKED]
    found = queued.run(2)
    queued.queue(learning_rate=0.001)
    queued.missing()
    queued.run(1)
    assert found + queued.run(3) == points


def test_a_request_is_applied_once_and_outlives_a_lost_database(asked: Any) -> None:
    search = asked()
    search.run(1)
    database = paths_for(search.config).optuna_file()
    older = database.read_bytes()  # the copy that is left of a machine that is lost
    search.queue(**ASKED)
    search.fork(0, learning_rate=0.02)
    assert [search.inbox.accept(), search.inbox.accept(), waiting(search)] == [2, 0, 2]
    again = Search(search.config)  # its driver was killed
    assert [again.inbox.accept(), waiting(again)] == [0, 2]
    database.write_bytes(older)
    last = Search(search.config)
    assert [last.inbox.accept(), waiting(last)] == [2, 2]
    assert len(Mailbox(paths_for(search.config)).waiting()) == 2
    last.run(2)
    assert last.inbox.accept() == 0
    assert Mailbox(paths_for(search.config)).waiting() == {}


def test_what_was_added_survives_interruptions(asked: Any) -> None:
    """Killed with both running: the same points under the same keys, and a failure is retried."""
    search = asked()
    search.run(1)
    search.queue(**ASKED)
    search.fork(0, learning_rate=0.02)
    search.missing()
    jobs = [suggested(search.searcher, name) for name in "ab"]
    again = Search(search.config)
    assert again.missing() == 7
    assert [suggested(again.searcher, name).key for name in "ab"] == [job.key for job in jobs]
    for name in "ab":
        again.searcher.on_trial_complete(name, {"state": "failed", "failure": "x", "kind": "oom"})
    assert queue_failed(Records(search.config)) == {"sums": [1, 2]}
    last = Search(search.config)
    assert last.missing() == 7
    assert [suggested(last.searcher, name).key for name in "ab"] == [job.key for job in jobs]


def test_a_trial_killed_before_its_point_is_drawn_is_drawn_again(asked: Any) -> None:
    search = asked()
    search.queue(mask_ratio=0.4)
    search.missing()
    trial = search.study.ask()
    trial.set_user_attr("number", 0)
    again = Search(search.config)
    assert again.missing() == 7
    (point,) = again.run(1)
    assert point["mask_ratio"] == 0.4
    assert [row.queued for row in trial_rows(again.study, 0)] == [True]


def test_a_trial_stops_at_its_next_check_and_keeps_that_score(asked: Any) -> None:
    search = asked(search={"scheduler": {"name": "median"}})
    jobs = {name: suggested(search.searcher, name) for name in "ab"}
    check = {"score": 0.25, "step": 2, "steps": 8}
    assert not search.searcher.is_unpromising("a", check)
    for _ in range(2):  # asking again changes nothing
        search.post(Request("stop", "sums", trial=jobs["a"].number))
    assert not search.searcher.is_unpromising("b", check)
    assert search.searcher.is_unpromising("a", check | {"step": 4, "score": 0.5})
    search.searcher.on_trial_complete("a", check | {"step": 4, "score": 0.5})
    search.searcher.on_trial_complete("b", LAST | {"score": 0.1})
    rows = trial_rows(search.study, 0)
    assert [row.state for row in rows] == ["stopped_by_user", "finished"]
    assert (rows[0].score, rows[0].step) == (0.5, 4)
    assert search.study.trials[0].state is TrialState.PRUNED
    assert search.missing() == 4
    assert Mailbox(paths_for(search.config)).waiting() == {}


def test_a_stop_outlives_the_driver(asked: Any) -> None:
    """Killed before it saw the request, and after it noted it: the next attempt stops."""
    search = asked()
    job = suggested(search.searcher, "a")
    search.post(Request("stop", "sums", trial=job.number))
    for _ in range(2):
        search = Search(search.config)
        search.missing()
        assert suggested(search.searcher, "a").key == job.key
        assert search.searcher.is_unpromising("a", {"score": 0.5, "step": 2, "steps": 8})
    search.searcher.on_trial_complete("a", {"score": 0.5, "step": 2, "steps": 8})
    (row,) = trial_rows(search.study, 0)
    assert row.state == "stopped_by_user"


def test_a_stop_for_a_trial_that_has_ended_is_forgotten(asked: Any) -> None:
    search = asked()
    search.run(1)
    search.post(Request("stop", "sums", trial=0))
    search.inbox.accept()
    assert Mailbox(paths_for(search.config)).waiting() == {}


class Observer:
    """Counts what was added."""

    def __init__(self) -> None:
        self.count = 0

    def added(self, trials: int) -> None:
        self.count += trials


def test_a_free_slot_waits_for_requests_while_a_trial_runs(asked: Any) -> None:
    search, observer = asked(), Observer()
    taken: Any = observer
    batches = BatchSearcher([TrialBatch(search.searcher, taken, 1)])
    assert isinstance(batches.suggest("a"), dict)
    assert batches.suggest("b") is None
    search.queue(**ASKED)
    found = batches.suggest("b")
    assert isinstance(found, dict) and found["job"].point == ASKED
    assert observer.count == 1
    for name in "ab":
        batches.on_trial_complete(name, LAST | {"score": 0.5})
    assert batches.suggest("c") == FINISHED


REFUSED = {
    "a typo": ({"mask_rato": 0.3}, r"unknown key 'mask_rato' \(did you mean 'mask_ratio'"),
    "outside": ({"learning_rate": 0.5}, r"learning_rate 0.5 is outside .* 0.0001 to 0.01"),
    "between steps": ({"mask_ratio": 0.25}, "mask_ratio 0.25 is outside .* in steps of 0.1"),
    "not in the space": ({"weight_decay": 0.1}, "expected no weight_decay, because space"),
    "no number": ({"learning_rate": "fast"}, "expected a number above 0, got fast"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_point_outside_the_space_is_refused(asked: Any, name: str) -> None:
    values, said = REFUSED[name]
    with pytest.raises(UserError, match=said):
        asked().queue(**values)


def test_no_point_is_queued_twice(asked: Any) -> None:
    search = asked()
    search.queue(**ASKED)
    search.missing()
    with pytest.raises(UserError, match="a point with these values waits already"):
        search.queue(**ASKED)
    search.run(1)
    with pytest.raises(UserError, match="trial 0 has this point already"):
        search.queue(**ASKED)
    request = Request("queue", "sums", ASKED)  # made at the same time as the first one
    search.post(request)
    assert search.inbox.accept() == 0
    assert "a request was dropped: queue: trial 0 has this point" in search.said[-1]


def test_values_whose_points_are_all_trained_are_refused(asked: Any) -> None:
    finite = {"mask_ratio": [0.0, 0.4], "accumulation_interval": [1], "learning_rate": [1e-3]}
    search = asked(space=finite)
    search.run(2)
    with pytest.raises(UserError, match="every point with these values has been trained or waits"):
        search.queue(mask_ratio=0.4)


def test_a_value_without_its_condition_is_refused(asked: Any) -> None:
    methods = {"method": ["sft", "gmt"], "mask_ratio": [0.2, 0.4], "accumulation_interval": [1]}
    search = asked(space={**methods, "learning_rate": [1e-3]})
    with pytest.raises(UserError, match="mask_ratio depends on method: give both"):
        search.queue(mask_ratio=0.2)
    with pytest.raises(UserError, match="a point with method sft has no mask_ratio"):
        search.queue(mask_ratio=0.2, method="sft")
    search.queue(mask_ratio=0.2, method="gmt")


NOT_CHANGED = {
    "a batch": ({"batch": {"mini_batch": 4}}, "batch.mini_batch cannot change"),
    "an interval": ({"accumulation_interval": 4}, "accumulation_interval cannot change"),
    "an optimizer": ({"optimizer": "adafactor"}, "optimizer cannot change"),
    "a typo": ({"learning_rat": 0.1}, "did you mean 'learning_rate'"),
    "a ratio": ({"mask_ratio": 1.5}, r"a fraction in \[0, 1\)"),
    "a seed": ({"seed": 1}, "a search cannot vary this key"),
    "uneven": ({"examples": 37}, "expected a multiple of the effective batch"),
    "too short": ({"examples": 16}, "follows update 2, and the fork ends after update"),
}


@pytest.mark.parametrize("name", NOT_CHANGED)
def test_what_a_fork_cannot_change_is_refused_by_name(asked: Any, name: str) -> None:
    values, said = NOT_CHANGED[name]
    search = asked()
    search.run(1)
    with pytest.raises(UserError, match=said):
        search.fork(0, **values)


def test_a_trial_that_is_not_there_and_a_fixed_design_are_refused(
    asked: Any, sweep_files: Path, tree: Tree
) -> None:
    search = asked()
    search.run(2)
    with pytest.raises(UserError, match="has no trial 7; its trials: 0, 1"):
        search.fork(7)
    study = {
        "kind": "sensitivity",
        "margin": 0.1,
        "nuisance": {"learning_rate": 1e-3, "accumulation_interval": 1},
    }
    (sweep_files / "fixed.yaml").write_text(json.dumps(tree | {"study": study}))
    fixed = load_config(sweep_files / "fixed.yaml")
    with pytest.raises(UserError, match="sensitivity: a fixed design"):
        queue_request(fixed, "sums", [], ASKED)
    grid = search.config.model_copy(
        update={"search": search.config.search.model_copy(update={"sampler": "grid"})}
    )
    with pytest.raises(UserError, match="grid runs every point of the space anyway"):
        queue_request(grid, "sums", [], ASKED)
