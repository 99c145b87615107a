"""How a driver holds a sweep of an object store against other machines, and sends what changes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import final

from sweeps.errors import UserError
from sweeps.folder.drivers import Driver, drivers_here
from sweeps.storage.leases import BEAT_SECONDS, Leases
from sweeps.storage.mirror import Mirror
from sweeps.storage.object_store import StorageError
from sweeps.storage.ownership import DATABASE
from sweeps.storage.told import told

PUSH_SECONDS = 2.0
END_SECONDS, HASTE_SECONDS = 120.0, 5.0
"""How long the end of a sweep waits for a store that does not answer; the second is where a
person has asked for the end."""

_LEASED = ".leased"
"""In the mirror: the drivers that this machine told the store of, and has not taken back."""

Say = Callable[[str], None]


class LostError(StorageError):
    """This machine was taken for lost, and its sweep is driven by another."""


def leases_of(mirror: Mirror) -> Leases:
    """The records of a sweep's drivers in its store."""
    return Leases(mirror.store, mirror.folder.name)


def take_back(mirror: Mirror) -> None:
    """End the records of drivers that were killed on this machine: nobody need wait for them."""
    ours = mirror.folder / _LEASED
    if ours.exists():
        on_record = set(ours.read_text().split())
        here = {each.id for each in drivers_here(mirror.folder)}  # after it: one may begin now
        for driver in on_record - here:
            leases_of(mirror).end(driver)
        ours.write_text("".join(f"{driver}\n" for driver in here))


def check_held(mirror: Mirror, driver: Driver) -> None:
    """Raises `LostError` where another machine has ended the driver's record."""
    if driver.id not in leases_of(mirror).drivers():
        raise LostError("another machine took this one for lost, and runs the sweep now")


@contextmanager
def held(mirror: Mirror, driver: Driver, say: Say) -> Iterator[None]:
    """Hold the sweep, fetch what other machines left, and push what changes here.

    Raises:
        UserError: another machine holds it, or the store does not answer.
    """
    hold = _Hold(mirror, driver, say)
    is_first, is_all_there = hold.begin(), True
    try:
        with _meanwhile("lease", hold.beat):  # also while much is fetched, or sent at the end
            if is_first:
                with told():
                    mirror.pull()
            patience, is_all_there = END_SECONDS, False
            try:
                with _meanwhile("storage", hold.send):
                    yield
            except KeyboardInterrupt:
                patience = HASTE_SECONDS
                raise
            finally:
                is_all_there = hold.finish(patience)
    finally:
        if is_all_there:
            with suppress(StorageError):  # then it runs out
                leases_of(mirror).end(driver.id)


@final
class _Hold:
    """One driver's record in the store, which says that it lives, and what it sends."""

    def __init__(self, mirror: Mirror, driver: Driver, say: Say) -> None:
        self._mirror, self._driver, self._say = mirror, driver, say
        self._leases = leases_of(mirror)

    def begin(self) -> bool:
        """Put the record there; whether this is the only driver.

        Raises:
            UserError: another machine does the same, or the store does not answer.
        """
        folder = self._mirror.folder
        with told():
            with (folder / _LEASED).open("a") as ours:
                ours.write(f"{self._driver.id}\n")
            self._put()
            here = {each.id for each in drivers_here(folder)}
            if others := set(self._leases.drivers()) - here:
                self._leases.end(self._driver.id)
                raise UserError(
                    f"another machine begins to run this sweep at this moment ({len(others)} "
                    "more): see with `status`, and try again"
                )
        return here == {self._driver.id}

    def beat(self, over: threading.Event) -> None:
        """Live on for other machines, and hear what they ask."""
        while not over.wait(BEAT_SECONDS):
            try:
                self._check()
                self._put()
                if self._driver.id in self._leases.asked_to_stop():
                    self._request().touch()
            except LostError as error:
                self._say(f"{error}: this process stops")
                self._request().touch()
                return
            except OSError:
                continue  # `send` says it

    def send(self, over: threading.Event) -> None:
        """Push again and again."""
        complained, pause = False, PUSH_SECONDS
        while not over.wait(pause):
            began = time.monotonic()
            try:
                self._mirror.push(self._check)
                complained = False
            except LostError:
                return  # `beat` says it
            except OSError as error:
                if not complained:
                    self._say(
                        f"{error}. The sweep goes on; what it writes is kept here and sent later"
                    )
                complained = True
            pause = max(PUSH_SECONDS, time.monotonic() - began)

    def finish(self, patience: float) -> bool:
        """The last push; whether everything is there."""
        deadline, folder = time.monotonic() + patience, self._mirror.folder
        while True:
            try:
                self._mirror.push(self._check)
                if (folder / DATABASE).exists():  # its last copy may not have come there
                    self._check()
                    self._mirror.push_database()
                return True
            except LostError:
                return False
            except OSError as error:
                if time.monotonic() > deadline:
                    self._say(
                        f"{error}. Not everything is there yet: it lies in {folder}, and the same "
                        "command on this machine sends it"
                    )
                    return False
            time.sleep(PUSH_SECONDS)

    def _check(self) -> None:
        check_held(self._mirror, self._driver)

    def _put(self) -> None:
        self._leases.put(self._driver.id, json.dumps(asdict(self._driver)))

    def _request(self) -> Path:
        """What a driver takes for a request to stop, as `drivers.request_stop` leaves it."""
        return self._mirror.folder / "drivers" / f"{self._driver.id}.stop"


@contextmanager
def _meanwhile(name: str, work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Another thread works until the block is over."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
