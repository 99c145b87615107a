"""The command `ui`, and the links to MLflow that other commands print."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
import webbrowser
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sweeps.cli.app import app
from sweeps.config.sweep_config import paths_for
from sweeps.execution.driver_log import driver_log, publish_links
from sweeps.storage.study_paths import save_links, saved_links, ways_to
from sweeps.tracking.mlflow_tracker import MlflowTracker
from sweeps.tracking.tracker import StudyInfo
from tests.sweeps.played import FINISHED, play

FOLDER = "runs/small"
LOCAL, REMOTE = {"compare trials": "/#/runs"}, {"compare trials": "http://host:5000/#/runs"}


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments])


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pages that a browser was asked to open, on a machine with a display."""
    pages: list[str] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "open", pages.append)
    return pages


def test_the_pages_of_a_server_are_opened(sweep_files: Path, opened: list[str]) -> None:
    save_links(paths_for(play(FINISHED)).study("sums"), REMOTE)
    shown = call("ui", FOLDER)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("sums: compare trials:\n  http://host:5000/#/runs\n")
    assert opened == ["http://host:5000/#/runs"]
    document = json.loads(call("ui", FOLDER, "--no-open", "--json").stdout)
    assert document["result"]["links"] == {"sums: compare trials": "http://host:5000/#/runs"}
    assert len(opened) == 1


def test_no_browser_opens_without_a_display(
    sweep_files: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    save_links(paths_for(play(FINISHED)).study("sums"), REMOTE)
    assert call("ui", FOLDER).exit_code == 0
    assert opened == []


def test_a_server_without_recorded_links_shows_its_experiments(
    sweep_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(FINISHED)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    shown = call("ui", FOLDER, "--no-open").stdout
    assert "http://host:5000/#/experiments?workflowType=machine_learning\n" in shown


def test_a_store_that_does_not_exist_is_refused(sweep_files: Path) -> None:
    play(FINISHED)
    refused = call("ui", FOLDER)
    assert refused.exit_code == 2
    assert f"{sweep_files / 'runs' / 'mlflow.db'}: no MLflow store there yet" in refused.stderr


def test_status_report_and_log_tell_where_to_look(sweep_files: Path) -> None:
    config = play(FINISHED)
    study, folder = paths_for(config).study("sums"), paths_for(config).folder
    assert saved_links(study) == {} == ways_to({}, folder)
    command = f"python -m sweeps ui {folder}"
    with driver_log(folder / "driver.log", "small"):
        publish_links(study, LOCAL)
    assert f": sums: MLflow: {command}\n" in (folder / "driver.log").read_text()
    for name in ("status", "report"):
        assert f"MLflow: {command}\n" in call(name, FOLDER).stdout
    save_links(study, REMOTE)
    for name in ("status", "report"):
        assert "sums: compare trials: http://host:5000/#/runs\n" in call(name, FOLDER).stdout
    found = json.loads(call("status", FOLDER, "--json").stdout)["result"]
    assert found["domains"][0]["links"] == REMOTE


@pytest.mark.slow
def test_a_local_store_is_served_until_ctrl_c_and_no_process_stays(sweep_files: Path) -> None:
    place = paths_for(play(FINISHED))
    database = place.folder.parent / "mlflow.db"
    tracker = MlflowTracker(f"sqlite:///{database}")
    tracker.begin_study(StudyInfo("small/sums", "small", "sums", "", "abc", "", {}))
    save_links(place.study("sums"), tracker.links())
    with socket.create_server(("127.0.0.1", 0)) as usual:  # which another program has
        port = usual.getsockname()[1]
        code = f"from sweeps.cli import app, ui; ui.USUAL_PORT = {port}; app.main()"
        command = [sys.executable, "-c", code, "ui", FOLDER, "--no-open", "--json"]
        root = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=root) as served:
            assert served.stdout is not None
            (link,) = json.loads(served.stdout.readline())["result"]["links"].values()
            address, _, page = link.partition("/#/")
            assert page.startswith("experiments/") and str(port) not in address
            with urllib.request.urlopen(f"{address}/health", timeout=10) as answer:
                assert answer.read() == b"OK"
            assert processes_of(database)
            served.send_signal(signal.SIGINT)
            assert served.wait(60) == 0
    assert processes_of(database) == []


def processes_of(database: Path) -> list[str]:
    """The processes with this file in their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode(errors="replace")
        except OSError:  # has just ended
            continue
        if str(database) in words:
            found.append(words)
    return found
