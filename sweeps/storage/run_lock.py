"""The run lock: one process at a time drives a sweep. A kill releases the lock too."""

from __future__ import annotations

import getpass
import json
import math
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from filelock import FileLock, Timeout

from sweeps.storage.atomic_io import atomic_write
from sweeps.storage.errors import UserError
from sweeps.storage.interrupts import interruptible, shielded
from sweeps.storage.outages import repeated

RECORD = "driver.json"
"""In the folder ``drivers`` of a sweep: the running `Driver`."""

POLL_SECONDS = 0.5
"""How soon a driver notices a request to stop."""

LOOK_SECONDS = 1.0
"""`local_driver` holds the lock for less; only a driver holds it for longer."""

PATIENCE_SECONDS = 30.0
"""How long a driver may take to stop before the signal is sent again."""


@final
@dataclass(frozen=True)
class Driver:
    """A process that runs a sweep. ``started``: local time on its host."""

    id: str
    host: str
    pid: int
    user: str
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} of {self.user} on {self.host}, since {self.started}"


@final
class StartingError(UserError):
    """A sweep has a driver, but nothing is on record yet."""

    def __init__(self, folder: Path, driver: Driver) -> None:
        super().__init__(f"{folder}: the sweep is starting ({driver}); try again in a few seconds")
        self.folder, self.driver = folder, driver


def local_driver(folder: Path) -> Driver | None:
    """The driver whose lock this machine sees. Files of a dead driver are removed."""
    record = folder / "drivers" / RECORD
    if not record.exists():
        return None
    try:
        with _lock(folder).acquire(timeout=0):
            _clear(folder)
    except Timeout:
        return _recorded(record)
    return None


def _recorded(record: Path) -> Driver | None:
    """The driver on record; None if it has just ended."""
    try:
        return Driver(**json.loads(record.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def request_stop(folder: Path) -> Driver | None:
    """Ask the driver whose lock this machine sees to stop, as Ctrl-C does; returns it."""
    driver = local_driver(folder)
    if driver is not None:
        stop_file(folder, driver).touch()
    return driver


def refusal(driver: Driver | None) -> UserError:
    """The error of a second driver; ``driver``: the first, None if it has just ended."""
    first = driver or "a process that is ending"
    return UserError(
        f"this sweep is already running ({first}). Wait for it to end, or stop it with `stop`"
    )


@contextmanager
def acquire_run_lock(folder: Path) -> Iterator[Driver]:
    """Become the driver of the sweep in ``folder``.

    A request to stop raises KeyboardInterrupt in the main thread, like the signals of
    `sweeps.storage.interrupts`.

    Raises:
        UserError: another process drives the sweep.
    """
    driver, lock = _this_process(), _lock(folder)
    with gate(folder):
        try:
            lock.acquire(timeout=LOOK_SECONDS)
        except Timeout:
            raise refusal(local_driver(folder)) from None
        _clear(folder)
        atomic_write(folder / "drivers" / RECORD, json.dumps(asdict(driver)))
    with interruptible() as number:
        try:
            with repeated(_stopping(stop_file(folder, driver), number), POLL_SECONDS):
                yield driver
        finally:
            with shielded():
                _clear(folder)
                lock.release()


@contextmanager
def gate(folder: Path) -> Iterator[None]:
    """Keep drivers of the sweep from starting on this machine during the block."""
    home = folder / "drivers"
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "gate"):
        yield


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / "drivers" / "driver.lock")


def stop_file(folder: Path, driver: Driver) -> Path:
    """The driver stops once this file exists."""
    return folder / "drivers" / f"{driver.id}.stop"


def _clear(folder: Path) -> None:
    """Remove the driver's files; the caller holds its lock."""
    for file in (folder / "drivers" / RECORD, *(folder / "drivers").glob("*.stop")):
        file.unlink(missing_ok=True)


def _this_process() -> Driver:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    return Driver(uuid.uuid4().hex[:8], socket.gethostname(), os.getpid(), user, started)


def _stopping(request: Path, number: int) -> Callable[[], None]:
    """Sends this process the signal once the request exists, and again if it keeps running."""
    sent = -math.inf

    def look() -> None:
        nonlocal sent
        if time.monotonic() - sent > PATIENCE_SECONDS and request.exists():
            sent = time.monotonic()
            os.kill(os.getpid(), number)

    return look
