"""Who drives a sweep: the living processes, each known by a lock that also a kill releases."""

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

POLL_SECONDS = 0.5
"""How soon a driver notices a request to stop."""

ELSEWHERE = "elsewhere.txt"
"""Beside the records of drivers whose locks can be seen: what is known of others."""

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


def living_drivers(folder: Path) -> list[Driver]:
    """The drivers of the sweep in ``folder`` that are alive, the oldest first."""
    living = [*local_drivers(folder), *remote_drivers(folder)]
    return sorted(living, key=lambda driver: driver.started)


def local_drivers(folder: Path) -> list[Driver]:
    """Those whose locks this machine sees. What a dead one left behind is removed."""
    living = []
    for record in (folder / "drivers").glob("*.json"):
        lock = FileLock(record.with_suffix(".lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            living += _recorded(record)
            continue
        for suffix in (".json", ".stop", ".lock"):
            record.with_suffix(suffix).unlink(missing_ok=True)
        lock.release()
    return living


def remote_drivers(folder: Path) -> list[Driver]:
    """Those that an object store told of, while what it told is fresh."""
    try:
        told = json.loads((folder / "drivers" / ELSEWHERE).read_text())
        return [Driver(**each) for each in told["drivers"]] if time.time() < told["until"] else []
    except (OSError, ValueError, TypeError, KeyError):
        return []


def record_remote_drivers(folder: Path, records: list[str], seconds: float) -> None:
    """Keep for so long what an object store told: the records of drivers on other machines."""
    file = folder / "drivers" / ELSEWHERE
    if records or file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        told = {"until": time.time() + seconds, "drivers": [json.loads(r) for r in records]}
        atomic_write(file, json.dumps(told))


def _recorded(record: Path) -> list[Driver]:
    """The driver on record; none where it ended this moment."""
    try:
        return [Driver(**json.loads(record.read_text()))]
    except (OSError, ValueError, TypeError):
        return []


def request_stop(folder: Path) -> list[Driver]:
    """Ask every living driver to stop as by Ctrl-C; returns whom. Works from another machine."""
    living = living_drivers(folder)
    for driver in living:
        (folder / "drivers" / f"{driver.id}.stop").touch()
    return living


@contextmanager
def acquire_run_lock(
    folder: Path, *, join: bool = False, one_host: bool = False
) -> Iterator[Driver]:
    """Be a driver of the sweep in ``folder``: the only one, unless it joins by choice.

    ``one_host``: its drivers write what lies on their own disk, so they share one machine.
    A request to stop, as the signals of `sweeps.storage.interrupts`, reaches the main thread as
    KeyboardInterrupt.

    Raises:
        UserError: another process drives it, and this one did not choose to join.
    """
    home, driver = folder / "drivers", _this_process()
    with gate(folder):
        lock = FileLock(home / f"{driver.id}.lock", timeout=0)
        _check_others(folder, driver, join=join, one_host=one_host)
        lock.acquire()
        atomic_write(home / f"{driver.id}.json", json.dumps(asdict(driver)))
    over = threading.Event()
    request = home / f"{driver.id}.stop"
    with interruptible() as number:
        watch = threading.Thread(target=_pass_on, args=(request, over, number), daemon=True)
        watch.start()
        try:
            yield driver
        finally:
            over.set()
            watch.join()
            with shielded():
                for suffix in (".json", ".stop", ".lock"):
                    (home / f"{driver.id}{suffix}").unlink(missing_ok=True)
                lock.release()


@contextmanager
def gate(folder: Path) -> Iterator[None]:
    """While the block runs, no driver of the sweep begins on this machine."""
    home = folder / "drivers"
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "gate"):
        yield


def _check_others(folder: Path, driver: Driver, *, join: bool, one_host: bool) -> None:
    others, far = living_drivers(folder), remote_drivers(folder)
    elsewhere = [other for other in others if other.host != driver.host or other in far]
    if elsewhere and join and one_host:
        raise UserError(
            f"this sweep is being run on another machine, by {elsewhere[0]}, which keeps its "
            "records or files on its own disk and sends copies: join it from there"
        )
    if others and not join:
        raise UserError(
            f"this sweep is being run already, by {others[0]}. Wait for it, stop it with "
            "`stop`, or help it with `run --join`"
        )


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
