"""A real MLflow server on the loopback interface."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.tracking.mlflow_store import check_store
from sweeps.tracking.tracker import TrackingError

START_SECONDS = 90.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            cwd=tmp_path,
            env=os.environ | quiet,
            start_new_session=True,
        )
    try:
        uri = f"http://127.0.0.1:{port}"
        wait_until_it_answers(uri, tmp_path / "server.log")
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_it_answers(uri: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return check_store(uri)
        except TrackingError:
            if time.monotonic() > deadline:
                raise AssertionError(log.read_text()) from None
            time.sleep(0.3)
