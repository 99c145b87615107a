"""Leases: how a sweep's driver excludes other machines through an object store without locks.

A living driver rewrites its record regularly. While it holds the lease it also uploads changes.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import final

from sweeps.storage.errors import UserError
from sweeps.storage.mirror import Mirror
from sweeps.storage.object_store import Entry, ObjectStore, StorageError, as_user_error
from sweeps.storage.run_lock import Driver, refusal, stop_file
from sweeps.storage.trial_files import DATABASE

BEAT_SECONDS = 5.0
LEASE_SECONDS = 20.0
"""A driver is considered gone if its record has not been rewritten for this long."""

CLOCKS_SECONDS = 60.0
"""The same for readers, who compare the store's clock with their own."""

LONG_SECONDS = 900.0
"""More than any two clocks differ; the store would reject the requests."""


@final
class Leases:
    """The records of one sweep's drivers on all machines, each under its driver's id."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        """``name``: the sweep's folder in the store."""
        self._store, self._home = store, f"{name}/drivers"

    def put(self, driver: Driver) -> None:
        """Say that this driver lives."""
        self._store.put(self._at(driver.id, "json"), json.dumps(asdict(driver)).encode())

    def end(self, driver: str) -> None:
        """Remove this driver's record."""
        for ending in ("json", "stop"):
            self._store.remove(self._at(driver, ending))

    def request_stop(self, driver: str) -> None:
        """Ask it to stop."""
        self._store.put(self._at(driver, "stop"), b"stop")

    def asked_to_stop(self) -> list[str]:
        """The drivers that somebody asked to stop."""
        return list(self._found("stop"))

    def drivers(self) -> list[str]:
        """All that are on record, the living and the dead."""
        return list(self._found("json"))

    def living(self) -> Driver | None:
        """Who lives, by the clocks."""
        now = time.time_ns()
        found = self._found("json").items()
        return self._read(d for d, e in found if now - e.modified < 1e9 * CLOCKS_SECONDS)

    def outlived(self, say: Callable[[str], None]) -> Driver | None:
        """Wait until it is clear who lives, clocks aside. What is left of the others is
        removed."""
        first = self._found("json")
        age = time.time_ns() - max((e.modified for e in first.values()), default=0)
        deadline = time.monotonic() + (LEASE_SECONDS if age < 1e9 * LONG_SECONDS else 0.0)
        if first and deadline > time.monotonic():
            say(f"another machine ran this sweep: waiting {LEASE_SECONDS:g} s for a sign of it")
        while first and time.monotonic() < deadline:
            time.sleep(1.0)
            now = self._found("json")
            if alive := [d for d, entry in first.items() if d in now and now[d] != entry]:
                return self._read(alive)
            first = {d: entry for d, entry in first.items() if d in now}
        for driver in first:
            self.end(driver)
        return None

    def _found(self, ending: str) -> dict[str, Entry]:
        files = self._store.files(self._home)
        start, stop = len(self._home) + 1, -len(ending) - 1
        return {p[start:stop]: e for p, e in files.items() if p.endswith(f".{ending}")}

    def _read(self, drivers: Iterable[str]) -> Driver | None:
        """The first of them that has not ended this moment."""
        for driver in drivers:
            with suppress(FileNotFoundError):
                return Driver(**json.loads(self._store.read(self._at(driver, "json"))))
        return None

    def _at(self, driver: str, ending: str) -> str:
        return f"{self._home}/{driver}.{ending}"


PUSH_SECONDS = 2.0
END_SECONDS, HASTE_SECONDS = 120.0, 5.0
"""How long the end of a sweep waits for a store that does not respond; the second value applies
after an interrupt."""

_LEASED = ".leased"
"""In the mirror: the driver that this machine told the store of last."""

Say = Callable[[str], None]


class LostError(StorageError):
    """Another machine considered this one lost and drives the sweep now."""


def leases_of(mirror: Mirror) -> Leases:
    """The records of a sweep's drivers in its store."""
    return Leases(mirror.store, mirror.folder.name)


def check_held(mirror: Mirror, driver: Driver) -> None:
    """Raise `LostError` if another machine removed the driver's record."""
    if driver.id not in leases_of(mirror).drivers():
        raise LostError("another machine considered this one lost and runs the sweep now")


@contextmanager
def held(mirror: Mirror, driver: Driver, say: Say) -> Iterator[None]:
    """Hold the sweep's lease: download other machines' changes, then upload changes made here.

    Raises:
        UserError: another machine holds the lease, or the store does not respond.
    """
    holder = _LeaseHolder(mirror, driver, say)
    holder.begin()
    is_all_there = True
    try:
        with _meanwhile("lease", holder.beat):  # also while much is fetched, or sent at the end
            with as_user_error():
                mirror.pull()
            patience, is_all_there = END_SECONDS, False
            try:
                with _meanwhile("storage", holder.send):
                    yield
            except KeyboardInterrupt:
                patience = HASTE_SECONDS
                raise
            finally:
                is_all_there = holder.finish(patience)
    finally:
        if is_all_there:
            with suppress(StorageError):  # then the lease expires
                leases_of(mirror).end(driver.id)


@final
class _LeaseHolder:
    """Renews one driver's lease and uploads its files."""

    def __init__(self, mirror: Mirror, driver: Driver, say: Say) -> None:
        self._mirror, self._driver, self._say = mirror, driver, say
        self._leases = leases_of(mirror)

    def begin(self) -> None:
        """Put the record there. One that a killed driver of this machine left is ended first:
        nobody need wait for it.

        Raises:
            UserError: another machine drives the sweep or begins to, or the store does not answer.
        """
        ours, own = self._mirror.folder / _LEASED, self._driver.id
        with as_user_error():
            for stale in ours.read_text().split() if ours.exists() else []:
                self._leases.end(stale)
            if alive := self._leases.outlived(self._say):
                raise refusal(alive)
            ours.write_text(own)
            self._leases.put(self._driver)
            if others := set(self._leases.drivers()) - {own}:
                self._leases.end(own)
                raise UserError(
                    f"another machine begins to run this sweep at this moment ({len(others)} "
                    "more): see with `status`, and try again"
                )

    def beat(self, over: threading.Event) -> None:
        """Renew the lease and check for requests to stop."""
        while not over.wait(BEAT_SECONDS):
            try:
                self._check()
                self._leases.put(self._driver)
                if self._driver.id in self._leases.asked_to_stop():
                    stop_file(self._mirror.folder, self._driver).touch()
            except LostError as error:
                self._say(f"{error}: this process stops")
                stop_file(self._mirror.folder, self._driver).touch()
                return
            except OSError:
                continue  # `send` reports it

    def send(self, over: threading.Event) -> None:
        """Upload changes repeatedly."""
        complained, pause = False, PUSH_SECONDS
        while not over.wait(pause):
            began = time.monotonic()
            try:
                self._mirror.push(self._check)
                complained = False
            except LostError:
                return  # `beat` reports it
            except OSError as error:
                if not complained:
                    self._say(
                        f"{error}. The sweep continues; its files are kept here and sent later"
                    )
                complained = True
            pause = max(PUSH_SECONDS, time.monotonic() - began)

    def finish(self, patience: float) -> bool:
        """The last upload; returns whether everything arrived."""
        deadline, folder = time.monotonic() + patience, self._mirror.folder
        while True:
            try:
                self._mirror.push(self._check)
                if (folder / DATABASE).exists():  # its last copy may not have been uploaded
                    self._check()
                    self._mirror.push_database()
                return True
            except LostError:
                return False
            except OSError as error:
                if time.monotonic() > deadline:
                    self._say(
                        f"{error}. Some files in {folder} are not uploaded yet; run the same "
                        "command on this machine to send them"
                    )
                    return False
            time.sleep(PUSH_SECONDS)

    def _check(self) -> None:
        check_held(self._mirror, self._driver)


@contextmanager
def _meanwhile(name: str, work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run ``work`` in another thread until the block ends."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
