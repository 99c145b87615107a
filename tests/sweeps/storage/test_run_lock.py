"""One driver per sweep: a second is refused by name, a killed one is forgotten."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner, Result

from sweeps.cli.app import app
from sweeps.config.load import load_config, parse_config, put_on_record, save_config
from sweeps.config.sweep_config import resolve_paths
from sweeps.execution import paper
from sweeps.storage.errors import UserError
from sweeps.storage.run_lock import acquire_run_lock, local_driver, request_stop
from tests.sweeps.another_driver import DRIVE, another_driver
from tests.sweeps.memory_tracker import MemoryTracker


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that drives the sweep in `tmp_path`."""
    with another_driver(tmp_path) as driver:
        yield driver


def test_nobody_drives_what_nobody_runs(tmp_path: Path) -> None:
    assert local_driver(tmp_path / "missing") is None


Process = subprocess.Popen[str]


@pytest.mark.parametrize("text", ["", '{"id": "a"', '{"id": "a"}', None])
def test_a_record_that_comes_or_goes_this_moment_is_passed_over(
    tmp_path: Path, text: str | None
) -> None:
    with acquire_run_lock(tmp_path):
        record = tmp_path / "drivers" / "driver.json"
        record.unlink()
        if text is None:
            record.symlink_to(tmp_path / "gone")
        else:
            record.write_text(text)
        assert local_driver(tmp_path) is None
        with pytest.raises(UserError, match="already running"), acquire_run_lock(tmp_path):
            pass


def test_a_second_driver_is_refused_with_the_name_of_the_first(
    tmp_path: Path, process: Process
) -> None:
    refused = pytest.raises(UserError, match=rf"process {process.pid} of .* on .*, since ")
    with refused, acquire_run_lock(tmp_path):
        pass
    first = local_driver(tmp_path)
    assert first is not None and first.pid == process.pid
    assert process.poll() is None


def test_who_looks_for_a_driver_keeps_none_from_beginning(tmp_path: Path) -> None:
    """A look at what a killed driver left holds its lock for a moment."""
    with acquire_run_lock(tmp_path):
        pass
    look = FileLock(tmp_path / "drivers" / "driver.lock", thread_local=False)
    look.acquire()
    over = threading.Timer(0.2, look.release)
    over.start()
    with acquire_run_lock(tmp_path) as driver:
        assert local_driver(tmp_path) == driver
    over.join()


def test_a_killed_driver_is_no_driver(tmp_path: Path, process: Process) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "drivers" / "driver.json").exists()
    assert local_driver(tmp_path) is None
    left = {path.name for path in (tmp_path / "drivers").iterdir()}
    assert left == {"gate", "driver.lock"}
    with acquire_run_lock(tmp_path) as driver:
        assert driver.pid == os.getpid()


def test_a_driver_in_the_background_of_a_script_hears_a_request_to_stop(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DRIVE, str(tmp_path)]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as such a script does
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "driving\n"
        request_stop(tmp_path)
        assert process.wait(timeout=20) == 130


def command(name: str, *words: str) -> Result:
    return CliRunner().invoke(app, [name, "sweep.yaml", *words])


def test_a_paper_is_stopped_and_asked_for_by_its_own_name(sweep_files: Path) -> None:
    """Its studies lie beside that name, one after another."""
    with another_driver(sweep_files / "runs" / "small") as driver:
        put_on_record(resolve_paths(load_config("sweep.yaml")))
        asked = command("status")
        assert asked.exit_code == 0
        assert f"The paper small is running (process {driver.pid}" in asked.stdout
        assert "not started yet: small-search, small-methods, small-sensitivity" in asked.stdout
        result = command("stop")
        assert driver.wait(timeout=20) == 130
    assert result.exit_code == 0
    assert f"sweeps resume {sweep_files / 'runs' / 'small'}" in result.stdout


def test_a_sweep_that_has_just_been_started_is_no_paper(sweep_files: Path) -> None:
    """Ray starts for seconds before there is a record."""
    with another_driver(sweep_files / "runs" / "small") as driver:
        asked = command("status")
        assert asked.exit_code == 0, asked.output
        assert asked.stdout.startswith(f"small is starting (process {driver.pid}")
        found = json.loads(command("status", "--json").stdout)["result"]
        assert (found["state"], found["driver"]["pid"]) == ("starting", driver.pid)
        result = command("stop")
        assert driver.wait(timeout=20) == 130
    assert result.exit_code == 0
    assert "sweeps run sweep.yaml" in result.stdout


def test_a_sweep_that_starts_is_known_by_its_folder(sweep_files: Path) -> None:
    """Its configuration is there before Ray is."""
    folder = sweep_files / "runs" / "small"
    with another_driver(folder) as driver:
        soon = CliRunner().invoke(app, ["status", str(folder)])
        assert soon.exit_code == 0, soon.output
        assert soon.stdout.startswith(f"small is starting (process {driver.pid}")
        save_config(resolve_paths(load_config("sweep.yaml")))
        assert CliRunner().invoke(app, ["status", str(folder)]).stdout == soon.stdout
        said = {"leaderboard": "is starting (", "resume": "is already running (process"}
        for name, words in said.items():
            asked = CliRunner().invoke(app, [name, str(folder)])
            assert asked.exit_code == 2
            assert words in asked.stderr
        result = CliRunner().invoke(app, ["stop", str(folder)])
        assert driver.wait(timeout=20) == 130
    assert result.exit_code == 0
    assert f"sweeps resume {folder}" in result.stdout


def test_a_second_paper_is_refused_by_the_name_of_the_first(
    sweep_files: Path, tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    nuisance = {"accumulation_interval": 1, "learning_rate": 1e-3}
    study = {"kind": "sensitivity", "margin": 0.02, "nuisance": nuisance}
    config = parse_config(tree | {"study": study})
    monkeypatch.setattr("sweeps.execution.sweep.check", lambda *given: None)
    refused = pytest.raises(UserError, match=r"already running \(process")
    with another_driver(sweep_files / "runs" / "small"), refused:
        paper.run(config, tracker=MemoryTracker())


def test_a_request_to_stop_ends_a_driver_like_ctrl_c(tmp_path: Path, process: Process) -> None:
    asked = request_stop(tmp_path)
    assert asked is not None and asked.pid == process.pid
    assert process.wait(timeout=20) == 130
    deadline = time.monotonic() + 5
    while local_driver(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert request_stop(tmp_path) is None
