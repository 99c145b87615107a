"""Requests to a sweep's driver: small files that any process writes and the driver removes."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import final

from sweeps.storage.atomic_io import atomic_write
from sweeps.storage.object_store import as_user_error
from sweeps.storage.remote_sync import remote_of, remove_here
from sweeps.storage.study_paths import StudyPaths
from sweeps.storage.trial_files import REQUESTS

STORE_POLL_SECONDS = 5.0
"""How often a driver lists an object store."""


@final
class Mailbox:
    """The requests in a sweep's folder, or in its object store, by name.

    Each file appears as a whole, and stays until its request is settled.
    """

    def __init__(self, place: StudyPaths) -> None:
        """Raises: UserError, where the object store does not respond."""
        self._folder, self._remote = place.folder / REQUESTS, remote_of(place)
        self._asked, self._seen = -math.inf, dict[str, str]()

    @as_user_error()
    def post(self, name: str, text: str) -> None:
        """Write a request; one with the same name is replaced.

        Raises:
            UserError: the object store does not respond.
        """
        if self._remote is not None:
            self._remote.store.put(self._at(name), text.encode())
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        atomic_write(self._folder / name, text)

    def waiting(self) -> dict[str, str]:
        """The text of each request, in the order of names. Raises OSError if it cannot be read."""
        if self._remote is None:
            found = {}
            for file in sorted(self._folder.glob("*.json")):
                with suppress(FileNotFoundError):  # has just been settled
                    found[file.name] = file.read_text(encoding="utf-8")
            return found
        store, home = self._remote.store, self._at("")
        names = sorted(path.removeprefix(home) for path in store.files(home.rstrip("/")))
        return {name: store.read(self._at(name)).decode() for name in names}

    def due(self) -> dict[str, str]:
        """As ``waiting``, for a driver that asks often: what it last saw of an object store."""
        if self._remote is None or time.monotonic() - self._asked >= STORE_POLL_SECONDS:
            self._asked, self._seen = time.monotonic(), self.waiting()
        return self._seen

    def remove(self, name: str) -> None:
        """Remove a request that is settled."""
        self._seen.pop(name, None)
        remove_here([self._folder / name])
        if self._remote is not None:
            self._remote.store.remove(self._at(name))

    def _at(self, name: str) -> str:
        assert self._remote is not None
        return f"{self._remote.name}/{REQUESTS}/{name}"
