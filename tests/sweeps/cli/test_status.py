"""What `status` says of a sweep that runs, is stopped, is complete, or had failures."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from sweeps.cli import app
from sweeps.cli.status_view import view, ways_on
from sweeps.cli.sweep_status import SweepStatus, status
from sweeps.config.load import load_config, save_config
from sweeps.config.sweep_config import paths_for, resolve_paths
from sweeps.execution.progress import recorded_best
from sweeps.search.trial_records import Records, best_row
from sweeps.storage.run_lock import acquire_run_lock
from sweeps.storage.trial_files import EVENTS_FILE
from sweeps.tracking.event_log import Outbox
from tests.sweeps.played import (
    FINISHED,
    OOM,
    RUNNING,
    STOPPED,
    play,
    trial_folders,
)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app.app, ["status", *arguments])


def shown(found: SweepStatus) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=140, soft_wrap=True, highlight=False)
    console.print(*view(found), *ways_on(found).values(), sep="\n")
    return stream.getvalue()


def test_a_sweep_that_runs(sweep_files: Path) -> None:
    config = play(FINISHED, RUNNING)
    with Outbox(trial_folders(config)[1] / EVENTS_FILE) as outbox:
        for step in range(1, 4):
            outbox.append("step", step=step, metrics={})
        outbox.append("other")
    with acquire_run_lock(paths_for(config).folder) as driver:
        found = status(Records(config))
    assert found.state == "running"
    assert found.driver == driver
    (domain,) = found.domains
    assert (domain.total, domain.done) == (3, 1)
    assert domain.states == {"finished": 1, "running": 1}
    assert domain.best is not None and domain.best.score == 0.5
    (running,) = domain.running
    assert (running.number, running.step, running.score) == (1, 3, 0.125)
    assert running.steps in (4, 8)  # 64 examples in batches of 8, by one or two of them
    assert [h.text for h in found.events][-1] == "sums trial 1 started"
    text = shown(found)
    assert "small is running (process " in text
    assert "1 of 3" in text
    assert f"running: sums trial 1, {running.point}, update 3 of {running.steps}" in text
    assert "resume" not in text


def test_pace_and_time_left_are_of_this_session(sweep_files: Path) -> None:
    config = play(FINISHED)
    with acquire_run_lock(paths_for(config).folder):
        # What ended before the driver began says nothing of its pace; a second later it may.
        found = status(Records(config))
        if found.per_hour is None:
            assert found.seconds_left is None
        play(FINISHED)
        later = status(Records(config))
    assert later.per_hour is not None and later.seconds_left is not None
    assert later.per_hour > 0
    assert later.seconds_left == pytest.approx(3600 / later.per_hour * 1, rel=1e-6)


def test_what_a_killed_driver_left_is_not_called_running(sweep_files: Path) -> None:
    found = status(Records(play(FINISHED, RUNNING)))
    assert found.state == "stopped"
    (domain,) = found.domains
    assert domain.states == {"finished": 1, "interrupted": 1}
    assert domain.running == ()
    assert found.per_hour is None
    assert f"to continue:\npython -m sweeps resume {sweep_files / 'runs' / 'small'}" in shown(
        found
    )


def test_a_failure_has_its_cause_its_log_and_a_command(sweep_files: Path) -> None:
    config = play(STOPPED, OOM)
    found = status(Records(config))
    (failure,) = found.failures
    folder = trial_folders(config)[1]
    assert (failure.number, failure.kind) == (1, "oom")
    assert failure.cause == "CUDA out of memory"
    assert failure.log == str(folder / "failure.log")
    assert failure.command == f"python -m sweeps finetune {folder / 'run.yaml'}"
    assert "Traceback of it" in Path(failure.log).read_text()
    text = shown(found)
    assert "failed: sums trial 1 (oom), CUDA out of memory" in text
    assert "retry" in text and "--failed" in text


def test_complete_with_its_report(sweep_files: Path) -> None:
    config = play(FINISHED, FINISHED, STOPPED)
    assert status(Records(config)).state == "stopped"  # its report is still to be written
    page = paths_for(config).study("sums") / "report" / "report.html"
    page.parent.mkdir(parents=True)
    page.touch()
    found = status(Records(config))
    assert found.state == "complete"
    assert shown(found).splitlines()[0] == "small is complete."
    assert f"sums: {page}" in shown(found)
    with acquire_run_lock(paths_for(config).folder):
        assert "All trials are done; writing the report" in shown(status(Records(config)))


@pytest.mark.parametrize("source", ["sweep.yaml", "runs/small"])
def test_the_command_takes_a_file_or_a_folder(sweep_files: Path, source: str) -> None:
    play(FINISHED, OOM)
    result = call(source)
    assert result.exit_code == 0, result.output
    assert "1 of 3" not in result.stdout and "2 of 3" in result.stdout
    assert re.search(
        r"last events\n  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  sums trial 0 ", result.stdout
    )


def test_json_is_for_programs(sweep_files: Path) -> None:
    play(FINISHED, RUNNING)
    document = json.loads(call("runs/small", "--json").stdout)
    assert document["next"] == [f"python -m sweeps resume {sweep_files / 'runs' / 'small'}"]
    found = document["result"]
    assert found["state"] == "stopped"
    assert found["domains"][0]["best"]["score"] == 0.5
    # Nobody runs it, so watching ends with the first look, a line of JSON.
    lines = call("runs/small", "--json", "--watch").stdout.splitlines()
    assert [json.loads(line)["result"]["name"] for line in lines] == ["small"]


def test_a_sweep_that_was_stopped_before_its_first_trial(sweep_files: Path) -> None:
    config = resolve_paths(load_config("sweep.yaml"))
    paths_for(config).folder.mkdir(parents=True)
    save_config(config)
    asked = call("sweep.yaml")
    assert asked.exit_code == 0, asked.output
    assert asked.stdout == (
        "small is not running: no trial has started.\nto continue:\n"
        f"  python -m sweeps resume {sweep_files / 'runs' / 'small'}\n"
    )


def test_a_folder_that_moved_is_still_read(sweep_files: Path) -> None:
    play(FINISHED)
    (sweep_files / "elsewhere").mkdir()
    (sweep_files / "runs" / "small").rename(sweep_files / "elsewhere" / "small")
    assert load_config("elsewhere/small").storage == str(sweep_files / "elsewhere")
    assert "1 of 3" in call("elsewhere/small").stdout


def test_a_storage_names_its_sweeps(sweep_files: Path) -> None:
    play(FINISHED)
    (sweep_files / "runs" / "another").mkdir()
    (sweep_files / "runs" / "another" / "sweep.yaml").touch()
    asked = call("runs")
    assert asked.exit_code == 2
    assert asked.stderr.endswith("that has been run (STORAGE/NAME), here one of: another, small\n")


def test_only_its_owner_reads_the_stored_configuration(sweep_files: Path) -> None:
    config = play(FINISHED)
    assert paths_for(config).config_file().stat().st_mode & 0o077 == 0


def test_looking_changes_nothing(sweep_files: Path) -> None:
    config = play(FINISHED, RUNNING)
    before = paths_for(config).optuna_file().read_bytes()
    call("runs/small")
    assert paths_for(config).optuna_file().read_bytes() == before


def test_a_newer_copy_of_the_database_is_seen(sweep_files: Path) -> None:
    config = play(FINISHED)
    records = Records(config)
    file = paths_for(config).optuna_file()
    older = file.read_bytes()
    assert len(records.rows("sums")) == 1
    play(FINISHED)
    copy = file.with_suffix(".partial")
    copy.write_bytes(file.read_bytes())
    file.write_bytes(older)
    copy.replace(file)
    assert len(records.rows("sums")) == 2


def test_a_method_other_than_gmt_is_shown(sweep_files: Path, tree: dict[str, Any]) -> None:
    training = tree["training"] | {"method": "random"}
    (sweep_files / "sweep.yaml").write_text(json.dumps(tree | {"training": training}))
    records = Records(play(FINISHED, RUNNING))
    assert shown(status(records)).count("random        mask 0.") == 1  # nobody runs the other
    best = recorded_best(best_row(records.rows("sums")))
    assert best is not None and best["point"]["method"] == "random"


def test_a_session_begins_with_the_best_of_those_before(sweep_files: Path) -> None:
    best = recorded_best(best_row(Records(play(STOPPED, FINISHED)).rows("sums")))
    assert best is not None
    assert (best["number"], best["score"]) == (1, 0.5)
    assert set(best["point"]) == {"mask_ratio", "accumulation_interval", "learning_rate"}
    assert recorded_best(None) is None
