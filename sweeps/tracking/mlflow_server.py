"""Serve a local MLflow store on the loopback interface."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from sweeps.storage.address import for_mlflow, sqlite_address
from sweeps.tracking.mlflow_compat import FEW_PROCESSES, QUIET
from sweeps.tracking.mlflow_store import check_store
from sweeps.tracking.tracker import TrackingError

ANSWER_SECONDS = 300.0
"""How long a server may take to respond; an old database is upgraded first."""

END_SECONDS = 10.0
"""How long its processes may take to end before they are killed."""


def start(
    database: Path, port: int, log: Path, options: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Start a server with few processes; returns it once it responds. Its output goes to ``log``.

    Raises:
        TrackingError: it ended or does not respond.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", for_mlflow(sqlite_address(database)), *options]
    with log.open("ab") as output:
        server = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C does not reach it, and `end` ends all its processes
            cwd=database.parent,
            env={**QUIET, **FEW_PROCESSES, **os.environ},
        )
    try:
        _wait(server, f"http://127.0.0.1:{port}", log)
    except BaseException:
        end(server)
        raise
    return server


def _wait(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    late = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            check_store(address)
            return
        except TrackingError as error:
            if server.poll() is not None or time.monotonic() > late:
                said = log.read_text(errors="replace").strip()[-500:] or str(error)
                raise TrackingError(f"MLflow did not start: {said}") from None
        time.sleep(0.3)


@contextmanager
def serving(database: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server of the store in ``database`` that ends with the block. Raises as `start`."""
    with TemporaryDirectory() as folder:
        server = start(database, port, Path(folder) / "mlflow.log")
        try:
            yield server
        finally:
            end(server)


def end(server: subprocess.Popen[bytes]) -> None:
    """End a server and all its processes."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(END_SECONDS)
