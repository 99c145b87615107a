"""Who drives a sweep, told through an object store, which has no locks: each driver's record is
written again and again while it lives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import final

from sweeps.storage.object_store import Entry, ObjectStore

BEAT_SECONDS = 5.0
LEASE_SECONDS = 20.0
"""A record that was not written again for so long is of a driver that is gone."""

CLOCKS_SECONDS = 60.0
"""The same for who only looks, and goes by its own clock and the store's."""

LONG_SECONDS = 900.0
"""No two clocks differ by so much: the store would refuse the requests."""


@final
class Leases:
    """The records of one sweep's drivers on all machines, each under its driver's id."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        """``name``: the sweep's folder in the store."""
        self._store, self._home = store, f"{name}/drivers"

    def put(self, driver: str, record: str) -> None:
        """Say that this driver lives."""
        self._store.put(self._at(driver, "json"), record.encode())

    def end(self, driver: str) -> None:
        """Say that it lives no more."""
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

    def living(self) -> list[str]:
        """The records of those that live, by the clocks."""
        now = time.time_ns()
        found = self._found("json").items()
        return self._read(d for d, e in found if now - e.modified < 1e9 * CLOCKS_SECONDS)

    def outlived(self, known: set[str], say: Callable[[str], None]) -> list[str]:
        """Wait until it is clear who lives, clocks aside; the records of those that do. What is
        left of the others is removed. ``known``: drivers not to be asked about."""
        first = {d: e for d, e in self._found("json").items() if d not in known}
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
        return []

    def _found(self, ending: str) -> dict[str, Entry]:
        files = self._store.files(self._home)
        start, stop = len(self._home) + 1, -len(ending) - 1
        return {p[start:stop]: e for p, e in files.items() if p.endswith(f".{ending}")}

    def _read(self, drivers: Iterable[str]) -> list[str]:
        records = []
        for driver in drivers:
            try:
                records.append(self._store.read(self._at(driver, "json")).decode())
            except FileNotFoundError:  # it ended this moment
                continue
        return records

    def _at(self, driver: str, ending: str) -> str:
        return f"{self._home}/{driver}.{ending}"
