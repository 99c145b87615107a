"""A real MLflow server on the loopback interface, for benchmarks and tests that write to one."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeps.execution.cluster import free_port
from sweeps.tracking import mlflow_server


def start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A server whose store lies in ``folder``; returned when it answers."""
    artifacts = ["--artifacts-destination", str(folder / "artifacts")]
    log = folder / "mlflow.log"
    return mlflow_server.start(folder / "mlflow.db", port, log, artifacts)


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
