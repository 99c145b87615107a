"""One study's session without Ray: how it ends, and what is said about it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from sweeps.cli.app import app
from sweeps.config.budget import BudgetConfig, StopCondition, UsageTracker
from sweeps.config.load import load_config, parse_config
from sweeps.config.sweep_config import SweepConfig, paths_for, resolve_paths
from sweeps.execution import study_session, tuner
from sweeps.execution.progress import LineDisplay
from sweeps.execution.study_session import DomainSession, run_together
from sweeps.execution.sweep import open_study, run_studies
from sweeps.execution.test_scoring import TestScores
from sweeps.execution.trial_batch import TrialBatch
from sweeps.storage.errors import UserError
from sweeps.storage.run_lock import acquire_run_lock
from sweeps.tracking.tracker_pump import TrackerPump
from tests.sweeps.memory_tracker import MemoryTracker, StudyRecord
from tests.sweeps.played import FINISHED, RUNNING, Groups, play


def ending(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a session of which ``error`` is the end says; its error is the one that comes out."""
    config = resolve_paths(load_config("sweep.yaml"))
    study, said = open_study(config, "sums"), io.StringIO()

    def fails(self: DomainSession) -> None:
        raise error

    monkeypatch.setattr(DomainSession, "next_batch", fails)
    halt = StopCondition(UsageTracker(BudgetConfig(), 0.0), 0.5)
    groups: Any = Groups()
    with acquire_run_lock(Path.cwd() / "runs" / "small"):
        one = DomainSession(
            config, "sums", study, MemoryTracker(), LineDisplay(said), groups, halt
        )
        with pytest.raises(type(error)) as raised:
            run_together([one])
    assert raised.value is error
    return said.getvalue()


def test_trouble_with_marking_does_not_hide_the_interrupt(
    sweep_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def locked(*given: object) -> list[object]:
        calls.append(given)
        if len(calls) == 1:
            return []  # what an earlier session left
        raise RuntimeError("database is locked")

    monkeypatch.setattr(study_session, "mark_interrupted", locked)
    said = ending(KeyboardInterrupt(), monkeypatch)
    assert "still recorded as running (database is locked)" in said


@pytest.mark.parametrize(
    ("error", "patience"),
    [
        (KeyboardInterrupt(), study_session.TRACKER_HASTE_SECONDS),
        (UserError("too many failed"), study_session.TRACKER_PATIENCE_SECONDS),
    ],
)
def test_only_who_asked_for_the_end_is_not_kept_waiting_for_the_tracker(
    sweep_files: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    patience: float,
) -> None:
    given: list[float] = []

    def slow(pump: TrackerPump, timeout: float) -> bool:
        given.append(timeout)
        return False

    monkeypatch.setattr(TrackerPump, "close", slow)
    assert "some events were not sent" in ending(error, monkeypatch)
    assert given == [patience]


def test_a_spent_budget_is_told_and_how_to_go_on(
    sweep_files: Path, tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve_paths(parse_config(tree | {"budget": {"wall_hours": 1e-9}}))
    groups: Any = Groups()
    with acquire_run_lock(paths_for(config).folder) as driver:
        result = run_studies(config, LineDisplay(), MemoryTracker(), groups, driver)
    assert "wall_hours" in result.stopped
    assert result.domains["sums"].report.html.is_file()
    monkeypatch.setattr("sweeps.execution.sweep.run", lambda *given, **options: result)
    said = CliRunner().invoke(app, ["run", "sweep.yaml"])
    assert said.exit_code == 1  # there is no result
    assert "error: domain sums: no trial finished" in said.stderr
    assert said.stdout.endswith(f"Stopped because {result.stopped}:\n  {AGAIN}\n")


def test_what_a_killed_driver_ran_is_run_again(
    sweep_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed while one of three trials ran."""
    config = play(FINISHED, RUNNING)
    groups: Any = Groups()
    wanted: list[int] = []

    def run_tuner(config: SweepConfig, batches: list[TrialBatch], *given: object) -> None:
        assert groups.started
        (batch,) = batches
        wanted.append(batch.trials)
        for number in range(batch.trials):
            assert isinstance(batch.search.suggest(str(number)), dict)
            batch.search.on_trial_complete(str(number), FINISHED)

    monkeypatch.setattr(tuner, "run_tuner", run_tuner)
    with acquire_run_lock(paths_for(config).folder) as driver:
        said = LineDisplay(io.StringIO())
        result = run_studies(config, said, MemoryTracker(), groups, driver)
    rows = result.domains["sums"].rows
    assert wanted == [2]
    # The second attempt of trial 1 is number 2 to Optuna, and the next trial number 2 to us.
    assert [(row.number, row.state) for row in rows] == [(n, "finished") for n in (0, 1, 2)]
    assert groups.scored


@pytest.mark.parametrize(
    ("method", "heading"),
    [("gmt", "3 of 3 trials to run, 2"), ("random", "3 of 3 trials to run with method random, 2")],
)
def test_a_search_says_what_masks_its_trials(
    sweep_files: Path, monkeypatch: pytest.MonkeyPatch, method: str, heading: str
) -> None:
    monkeypatch.setattr(tuner, "run_tuner", lambda *given: None)
    config = resolve_paths(load_config("sweep.yaml", [f"training.method={method}"]))
    said = io.StringIO()
    groups: Any = Groups(count=2)
    with acquire_run_lock(paths_for(config).folder) as driver:
        run_studies(config, LineDisplay(said), MemoryTracker(), groups, driver)
    assert f"sums: {heading} at a time" in said.getvalue()


def test_what_the_tracker_was_not_told_is_told_later_with_its_method(
    sweep_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuner, "run_tuner", lambda *given: None)
    monkeypatch.setattr(DomainSession, "_chosen", lambda *given: {})  # it has no model to score
    config, tracker = play(FINISHED), MemoryTracker()
    groups: Any = Groups()
    with acquire_run_lock(paths_for(config).folder) as driver:
        run_studies(config, LineDisplay(io.StringIO()), tracker, groups, driver)
    (trial,) = tracker.store["small/sums"].trials.values()
    assert trial.state == "finished"
    assert trial.info.parameters["method"] == "gmt"


AGAIN = "python -m sweeps run sweep.yaml"


def test_the_tracker_hears_how_many_trials_a_grid_has(
    sweep_files: Path, tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = tree["space"] | {"learning_rate": [1e-3, 1e-2]}
    grid = {"space": rates, "search": {"sampler": "grid"}, "budget": {"wall_hours": 1e-9}}
    config = resolve_paths(parse_config(tree | grid))
    store: dict[str, StudyRecord] = {}
    with acquire_run_lock(paths_for(config).folder) as driver:
        run_studies(config, LineDisplay(), MemoryTracker(store), cast(Any, Groups()), driver)
    assert store["small/sums"].info.parameters["trials"] == str(10 * 2 * 2)


def test_a_study_that_is_over_hears_nothing_of_the_trouble_beside_it(
    sweep_files: Path, tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    domains = {name: tree["domains"]["sums"] for name in ("first", "second")}
    beside = tree | {"domains": domains, "resources": {"domains": "side_by_side"}}
    config = resolve_paths(parse_config(beside))

    def scores(one: DomainSession, rows: object) -> TestScores:
        if one.domain == "second":
            raise UserError("scoring failed")
        return TestScores()

    monkeypatch.setattr(DomainSession, "next_batch", lambda one: None)
    monkeypatch.setattr(DomainSession, "_test_scores", scores)
    store: dict[str, StudyRecord] = {}
    said, groups = io.StringIO(), cast(Any, Groups())
    with (
        acquire_run_lock(paths_for(config).folder) as driver,
        pytest.raises(UserError, match="scoring failed"),
    ):
        run_studies(config, LineDisplay(said), MemoryTracker(store), groups, driver)
    states = {study.info.domain: study.state for study in store.values()}
    assert states == {"first": "finished", "second": "interrupted"}
    phases = ["scoring test items", "writing reports", "scoring test items", "stopping workers"]
    assert said.getvalue().splitlines() == phases


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_search_that_has_every_point_ends_well_and_does_not_begin_again(
    sweep_files: Path, tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    monkeypatch.setattr(DomainSession, "_chosen", lambda *given: {})  # it has no model to score
    started: list[str] = []

    def run_tuner(config: SweepConfig, batches: list[TrialBatch], *given: object) -> None:
        (batch,) = batches
        for number in range(batch.trials):
            job = batch.search.suggest(str(number))
            assert isinstance(job, dict)
            started.append(job["job"].key)
            batch.search.on_trial_complete(str(number), FINISHED)

    monkeypatch.setattr(tuner, "run_tuner", run_tuner)
    space = {"mask_ratio": [0.0, 0.2, 0.4, 0.6], "accumulation_interval": [1, 2]}
    search = {"trials": 16, "sampler": sampler}
    changes = {"space": {**space, "learning_rate": 1e-3}, "search": search}
    config = resolve_paths(parse_config(tree | changes))
    heard = []
    for _ in range(2):
        said, groups, tracker = io.StringIO(), cast(Any, Groups()), MemoryTracker()
        with acquire_run_lock(paths_for(config).folder) as driver:
            result = run_studies(config, LineDisplay(said), tracker, groups, driver)
        heard.append((said.getvalue(), groups.started, result))
    assert len(started) == len({key.partition("-")[2] for key in started}) == 8
    short = "search.trials is 16, but the space has only 8 points; each is trained once"
    first, again = (text for text, _, _ in heard)
    assert f"sums: {short}\nsums: 8 of 8 trials to run" in first
    assert all(f"sums: the space is exhausted: {short}" in text for text in (first, again))
    assert "all 8 trials are already done" in again
    assert [was_started for _, was_started, _ in heard] == [True, False]
    page = heard[1][2].domains["sums"].report.html.read_text()
    assert f"Small space: {short}." in page
