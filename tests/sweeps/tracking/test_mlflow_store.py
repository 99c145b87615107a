"""An unusable store is named in one sentence, soon."""

from __future__ import annotations

import http.server
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sweeps.execution.cluster import free_port
from sweeps.tracking import mlflow_store
from sweeps.tracking.mlflow_store import check_store, public_address, sqlite_path
from sweeps.tracking.mlflow_tracker import MlflowTracker
from sweeps.tracking.tracker import StudyInfo, TrackingError, TrackingRefused, TrialInfo

if TYPE_CHECKING:
    from mlflow.entities import Run


@contextmanager
def answering(status: int, body: bytes, api: tuple[int, bytes] = (200, b"{}")) -> Iterator[str]:
    """A server whose /health page gives ``status`` and ``body``, and every other page ``api``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, text = (status, body) if self.path == "/health" else api
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_closed_port_is_reported() -> None:
    port = free_port()
    with pytest.raises(
        TrackingError, match=f"127.0.0.1:{port} cannot be used: it does not respond"
    ):
        MlflowTracker(f"http://127.0.0.1:{port}").check()


def test_a_silent_address_is_reported_within_six_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        started = time.monotonic()
        with pytest.raises(TrackingError, match="cannot be used"):
            MlflowTracker(f"http://127.0.0.1:{server.getsockname()[1]}").check()
        assert time.monotonic() - started < 6.0


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (403, b"", "--allowed-hosts"),
        (404, b"", "status 404"),
        (200, b"hello", "a program other than MLflow"),
    ],
)
def test_an_answer_that_is_not_mlflow_is_reported(status: int, body: bytes, message: str) -> None:
    with answering(status, body) as uri, pytest.raises(TrackingError, match=message):
        check_store(uri)


def test_a_healthy_answer_passes() -> None:
    with answering(200, b"OK") as uri:
        check_store(uri)


def test_a_refused_host_name_is_reported_though_the_server_is_healthy() -> None:
    """MLflow checks the Host header of every request but those to /health."""
    refusal = (403, b"Invalid Host header - possible DNS rebinding attack detected")
    with (
        answering(200, b"OK", api=refusal) as uri,
        pytest.raises(TrackingError, match="--allowed-hosts"),
    ):
        check_store(uri)
    with answering(200, b"OK", api=(401, b"")) as uri:  # it wants a password: it lives
        check_store(uri)


def test_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="does not exist; create it first"):
        check_store(f"sqlite:///{tmp_path}/missing/mlflow.db")


def test_unwritable_place_is_reported() -> None:
    # /proc takes no files, not even from root.
    with pytest.raises(TrackingError, match="cannot be written"):
        check_store("sqlite:////proc/mlflow.db")


def test_a_file_that_is_no_database_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, " * 100)
    with pytest.raises(TrackingError, match="cannot be written"):
        check_store(f"sqlite:///{path}")
    assert path.read_text().startswith("not a database")


def test_a_locked_database_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_store, "ANSWER_SECONDS", 1.2)
    path = tmp_path / "mlflow.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with pytest.raises(TrackingError, match="locked"):
        check_store(f"sqlite:///{path}")
    connection.close()
    assert time.monotonic() - started < 1.0


def test_the_check_leaves_nothing_behind(tmp_path: Path) -> None:
    check_store(f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["", "mlruns", "file:///tmp/mlruns", "sqlite:///", "sqlite://x"])
def test_other_addresses_are_refused(uri: str) -> None:
    with pytest.raises(TrackingError, match="sqlite:///"):
        check_store(uri)


def test_sqlite_paths() -> None:
    assert sqlite_path("sqlite:////data/x.db?timeout=5") == Path("/data/x.db")
    assert sqlite_path("sqlite:///x.db") == Path.cwd() / "x.db"
    assert sqlite_path("http://host") is None


def test_passwords_are_not_shown() -> None:
    assert public_address("https://me:secret@host:5000/") == "https://host:5000"


def test_importing_the_tracker_does_not_import_mlflow() -> None:
    code = (
        "import sys, sweeps.tracking.tracker, sweeps.tracking.event_log; "
        "import sweeps.tracking.mlflow_tracker as m; "
        "m.MlflowTracker('sqlite:///x.db'); assert 'mlflow' not in sys.modules"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")
def test_a_run_that_somebody_deleted_is_refused_once_and_keeps_no_other_back(
    tmp_path: Path,
) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker = MlflowTracker(uri)
    tracker.begin_study(StudyInfo("s/sums", "s", "sums", "", "abc", "", {}))
    for number in range(2):
        tracker.begin_trial(TrialInfo(f"k{number}", number, {"mask_ratio": 0.2}, 0))
        tracker.log(f"k{number}", 0, {"train/loss": 1.0})
    client = MlflowClient(uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "gmt/sums"]

    def runs() -> dict[str, Run]:
        found = client.search_runs([experiment.experiment_id])
        return {run.data.tags.get("gmt.trial_key", ""): run for run in found}

    client.delete_run(runs()["k0"].info.run_id)
    with pytest.raises(TrackingRefused, match="'k0'"):
        tracker.flush()
    assert runs()["k1"].data.metrics["train/loss"] == 1.0
    tracker.log("k0", 1, {"train/loss": 0.5})
    tracker.flush()
