"""A real MLflow server on the loopback interface, for benchmarks and tests that write to one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeps.execution.cluster import free_port
from sweeps.storage.sqlite_address import for_mlflow, sqlite_address

ANSWER_SECONDS = 300.0


def start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A server with one worker whose store lies in ``folder``; returned when it answers."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", for_mlflow(sqlite_address(folder / "mlflow.db"))]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "mlflow.log").open("ab") as log:
        server = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=folder,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
    end = time.monotonic() + ANSWER_SECONDS
    while not _answers(port):
        if time.monotonic() > end or server.poll() is not None:
            kill(server)
            raise TimeoutError((folder / "mlflow.log").read_text()[-2000:])
        time.sleep(0.3)
    return server


def kill(server: subprocess.Popen[bytes]) -> None:
    """End it at once, with its workers."""
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A server's address, while the block runs."""
    port = free_port()
    server = start(folder, port)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        kill(server)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except OSError:
        return False
