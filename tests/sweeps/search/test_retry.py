"""Failed trials queued again, and the commands that stop and resume."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import optuna
import pytest
from optuna.trial import TrialState
from typer.testing import CliRunner, Result

from sweeps.cli import app
from sweeps.config.budget import BudgetConfig, StopCondition, UsageTracker
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.execution.progress import LineDisplay
from sweeps.execution.study_session import DomainSession, run_together
from sweeps.execution.sweep import open_study
from sweeps.search.attempt_records import finished_trials, mark_interrupted
from sweeps.search.retry import queue_failed
from sweeps.search.trial_counts import workload
from sweeps.search.trial_records import Records
from sweeps.storage.errors import UserError
from sweeps.storage.run_lock import acquire_run_lock, local_driver
from sweeps.storage.trial_files import SENT_FILE
from tests.sweeps.memory_tracker import MemoryTracker
from tests.sweeps.played import (
    DIVERGED,
    FINISHED,
    OOM,
    RUNNING,
    Groups,
    play,
    trial_folders,
)

if TYPE_CHECKING:
    from sweeps.execution.worker_groups import WorkerGroups


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app.app, list(arguments))


def waiting(config: SweepConfig) -> list[optuna.trial.FrozenTrial]:
    trials = Records(config).trials("sums")
    return [trial for trial in trials if trial.state is TrialState.WAITING]


def test_a_failed_trial_is_missing_again(sweep_files: Path) -> None:
    config = play(FINISHED, OOM)
    records = Records(config)
    before = records.trials("sums")[1]
    assert workload(records.config, "sums", records.rows("sums")).left == 1
    assert queue_failed(records) == {"sums": [1]}
    (again,) = waiting(config)
    assert again.system_attrs["fixed_params"] == before.params
    assert again.user_attrs["number"] == 1
    assert workload(records.config, "sums", records.rows("sums")).left == 2
    assert len(finished_trials(open_study(config, "sums"))) == 1
    assert queue_failed(records) == {"sums": []}  # it waits already


def test_what_would_stand_for_the_next_attempt_is_gone(sweep_files: Path) -> None:
    config = play(DIVERGED)
    (folder,) = trial_folders(config)
    for name in ("result.json", SENT_FILE, "failure.log", "events.jsonl"):
        (folder / name).write_text("{}")
    queue_failed(Records(config))
    assert not {"result.json", SENT_FILE, "failure.log"} & {p.name for p in folder.iterdir()}
    assert (folder / "events.jsonl").exists()  # its history goes on


def test_only_some_kinds(sweep_files: Path) -> None:
    config = play(OOM, DIVERGED)
    assert queue_failed(Records(config), ["oom"]) == {"sums": [0]}
    assert [trial.user_attrs["number"] for trial in waiting(config)] == [0]


@pytest.mark.parametrize(
    ("kind", "expected"), [("disk", [1]), ("configuration", [1]), ("oom", []), ("error", [])]
)
def test_a_failure_that_stopped_the_study_is_tried_again_when_it_continues(
    sweep_files: Path, monkeypatch: pytest.MonkeyPatch, kind: str, expected: list[int]
) -> None:
    failed = {"state": "failed", "kind": kind, "failure": "OSError: No space left on device"}
    config = play(FINISHED, failed)
    (trial_folders(config)[1] / "failure.log").write_text("No space left on device")
    seen: list[list[int]] = []

    def look(self: DomainSession) -> None:
        seen.append([int(each.user_attrs["number"]) for each in waiting(config)])

    monkeypatch.setattr(DomainSession, "next_batch", look)
    monkeypatch.setattr(DomainSession, "result", lambda self: None)
    halt = StopCondition(UsageTracker(BudgetConfig(), 0.0), 0.5)
    study, groups = open_study(config, "sums"), cast("WorkerGroups", Groups())
    display = LineDisplay(io.StringIO())
    with acquire_run_lock(paths_for(config).folder):
        run_together(
            [DomainSession(config, "sums", study, MemoryTracker(), display, groups, halt)]
        )
    assert seen == [expected]
    assert (trial_folders(config)[1] / "failure.log").exists() == (not expected)


def test_an_interrupted_trial_has_not_failed(sweep_files: Path) -> None:
    config = play(FINISHED, RUNNING)
    mark_interrupted(open_study(config, "sums"))
    assert queue_failed(Records(config)) == {"sums": []}


def test_not_while_somebody_runs_it(sweep_files: Path) -> None:
    config = play(OOM)
    with acquire_run_lock(paths_for(config).folder) as driver:
        result = call("retry", "runs/small", "--failed")
    assert result.exit_code == 2
    assert f"this sweep is running ({driver})" in result.stderr
    assert waiting(config) == []


def test_the_command_says_how_to_go_on(sweep_files: Path) -> None:
    play(FINISHED, OOM, OOM)
    folder = sweep_files / "runs" / "small"
    result = call("retry", "sweep.yaml", "--kind", "oom")
    assert result.exit_code == 0, result.output
    assert "sums: queued again: trial 1, 2" in result.stdout
    assert f"python -m sweeps resume {folder}" in result.stdout
    again = call("retry", "runs/small", "--failed")
    assert "No failed trials to retry" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["retry", "sweep.yaml"], "specify --failed or --kind KIND (for example oom)"),
        (["retry", "sweep.yaml", "--kind", "oon"], "did you mean 'oom'?"),
        (["retry", "sweep.yaml", "--failed"], "no sweep named 'small'"),
        (["resume", "sweep.yaml"], "nothing to resume"),
        (["stop", "sweep.yaml"], "nothing to stop"),
    ],
)
def test_mistakes_are_refused(sweep_files: Path, arguments: list[str], says: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (sweep_files / "runs").exists()


def test_nobody_runs_it(sweep_files: Path) -> None:
    play(FINISHED)
    result = call("stop", "runs/small")
    assert result.exit_code == 0
    assert result.stdout == "small is not running: nothing to stop.\n"


DRIVE = """
import sys, time
from pathlib import Path
from sweeps.storage.errors import UserError
from sweeps.storage.run_lock import acquire_run_lock
with acquire_run_lock(Path(sys.argv[1])):
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def test_stop_reaches_another_process_and_waits_for_it(sweep_files: Path, root: Path) -> None:
    folder = paths_for(play(FINISHED)).folder
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVE, str(folder)], env={**os.environ, "PYTHONPATH": str(root)}
    )
    while not local_driver(folder):
        assert process.poll() is None
        time.sleep(0.05)
    result = call("stop", "runs/small")
    assert result.exit_code == 0, result.output
    assert process.wait(10) == 130
    assert f"asked to stop: process {process.pid} of " in result.stdout
    assert (
        f"Stopped. Finished trials are kept. To continue:\n  python -m sweeps resume {folder}\n"
        in (result.stdout)
    )


def test_one_who_does_not_stop_is_named(
    sweep_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = paths_for(play(FINISHED)).folder
    monkeypatch.setattr(
        "sweeps.storage.run_lock.POLL_SECONDS", 60.0
    )  # it looks for requests too seldom
    with acquire_run_lock(folder) as driver:
        result = call("stop", "runs/small", "--wait", "0.1")
        assert result.exit_code == 1
        assert f"not stopped within 0.1 s: {driver}" in result.stderr


def test_a_store_that_is_lost_while_one_waits_for_the_end_is_a_sentence(
    sweep_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = paths_for(play(FINISHED)).folder

    def lost(place: object) -> None:
        raise UserError("s3://sweeps does not answer")

    monkeypatch.setattr("sweeps.cli.steer.living_driver", lost)
    monkeypatch.setattr("sweeps.storage.run_lock.POLL_SECONDS", 60.0)
    with acquire_run_lock(folder):
        result = call("stop", "runs/small")
    assert result.exit_code == 2
    assert result.stderr == "error: s3://sweeps does not answer\n"


def test_resume_takes_the_stored_configuration(
    sweep_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(FINISHED)
    (sweep_files / "sweep.yaml").rename(sweep_files / "elsewhere.yaml")
    ran: list[SweepConfig] = []

    def run(config: SweepConfig, *_: object, **options: object) -> None:
        assert options == {"adopt": True}
        ran.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("sweeps.execution.sweep.run", run)
    result = call("resume", "runs/small", "search.trials=9", "--adopt")
    assert result.exit_code == 130
    (config,) = ran
    assert config.search.trials == 9
    assert config.storage == str(sweep_files / "runs")
    assert Path(config.domains["sums"].data.path).is_absolute()
    again = f"python -m sweeps resume {sweep_files / 'runs' / 'small'} search.trials=9"
    assert again in result.stdout
