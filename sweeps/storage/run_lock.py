"""Who drives a sweep: one living process, known by a lock that also a kill releases."""

from __future__ import annotations

import getpass
import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from filelock import FileLock, Timeout

from sweeps.storage.atomic_io import atomic_write
from sweeps.storage.errors import UserError
from sweeps.storage.interrupts import interruptible, shielded

RECORD = "driver.json"
"""In the folder ``drivers`` of a sweep: the `Driver`, while it lives."""

POLL_SECONDS = 0.5
"""How soon a driver notices a request to stop."""

LOOK_SECONDS = 1.0
"""A lock that is held for longer is a driver's, not that of a process that looks for one."""

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


def local_driver(folder: Path) -> Driver | None:
    """The driver whose lock this machine sees. What a dead one left behind is removed."""
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
    """The driver on record; None where it ended this moment."""
    try:
        return Driver(**json.loads(record.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def request_stop(folder: Path) -> Driver | None:
    """Ask the driver whose lock is seen here to stop as by Ctrl-C; returns it."""
    driver = local_driver(folder)
    if driver is not None:
        stop_file(folder, driver).touch()
    return driver


def refusal(driver: Driver | None) -> UserError:
    """What a second driver is told; ``driver``: the first, None where it ended this moment."""
    first = driver or "a process that is ending"
    return UserError(
        f"this sweep is being run already, by {first}. Wait for it, or stop it with `stop`"
    )


@contextmanager
def acquire_run_lock(folder: Path) -> Iterator[Driver]:
    """Be the driver of the sweep in ``folder``.

    A request to stop, as the signals of `sweeps.storage.interrupts`, reaches the main thread as
    KeyboardInterrupt.

    Raises:
        UserError: another process drives it.
    """
    driver, lock = _this_process(), _lock(folder)
    with gate(folder):
        try:
            lock.acquire(timeout=LOOK_SECONDS)
        except Timeout:
            raise refusal(local_driver(folder)) from None
        _clear(folder)
        atomic_write(folder / "drivers" / RECORD, json.dumps(asdict(driver)))
    over = threading.Event()
    request = stop_file(folder, driver)
    with interruptible() as number:
        watch = threading.Thread(target=_pass_on, args=(request, over, number), daemon=True)
        watch.start()
        try:
            yield driver
        finally:
            over.set()
            watch.join()
            with shielded():
                _clear(folder)
                lock.release()


@contextmanager
def gate(folder: Path) -> Iterator[None]:
    """While the block runs, no driver of the sweep begins on this machine."""
    home = folder / "drivers"
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "gate"):
        yield


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / "drivers" / "driver.lock")


def stop_file(folder: Path, driver: Driver) -> Path:
    """The driver stops once it is there."""
    return folder / "drivers" / f"{driver.id}.stop"


def _clear(folder: Path) -> None:
    """Remove what the driver left; by who holds its lock."""
    for file in (folder / "drivers" / RECORD, *(folder / "drivers").glob("*.stop")):
        file.unlink(missing_ok=True)


def _this_process() -> Driver:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = str(os.getuid())
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    return Driver(uuid.uuid4().hex[:8], socket.gethostname(), os.getpid(), user, started)


def _pass_on(request: Path, over: threading.Event, number: int) -> None:
    """Send this process the signal once the request exists, and again if it keeps running."""
    asked = -math.inf
    while not over.wait(POLL_SECONDS):
        if time.monotonic() - asked > PATIENCE_SECONDS and request.exists():
            asked = time.monotonic()
            os.kill(os.getpid(), number)
