"""The lease that keeps a second driver of a sweep out, in an object store without locks.

Two threads of the driver use it: one renews the lease, the other uploads the driver's files.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from typing import final

from sweeps.storage.object_store import ObjectStore, StorageError, SupersededError, as_user_error
from sweeps.storage.outages import repeated, retry_storage
from sweeps.storage.remote_folder import RemoteFolder
from sweeps.storage.run_lock import Driver, refusal, stop_file
from sweeps.storage.trial_files import DATABASE

BEAT_SECONDS = 5.0
"""How often the lease is renewed, and changed files are uploaded."""

LEASE_SECONDS = 20.0
"""A driver is considered lost if it has not renewed its lease for this long."""

CLOCKS_SECONDS = 60.0
"""The same for readers, who compare the store's clock with their own."""

END_SECONDS, HASTE_SECONDS = 120.0, 5.0
"""How long the end of a sweep waits for a store that does not respond; the second value applies
after an interrupt."""

_LEASED = ".leased"
"""In the local folder: the driver that had the lease last on this machine."""

Say = Callable[[str], None]


@final
class Lease:
    """Names the driver of a sweep in its folder of the store."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        """``name``: the sweep's folder in the store."""
        self._store, self._home = store, f"{name}/drivers"
        self._record = f"{self._home}/lease.json"

    def holder(self) -> Driver | None:
        """The driver on record, alive or lost."""
        try:
            return Driver(**json.loads(self._store.read(self._record)))
        except FileNotFoundError:
            return None

    def living(self) -> Driver | None:
        """The driver that renewed the lease lately, by the clocks."""
        entry = self._store.stat(self._record)
        if entry is None or time.time_ns() - entry.modified > 1e9 * CLOCKS_SECONDS:
            return None
        return self.holder()

    def acquire(self, driver: Driver, dead: str, say: Say) -> None:
        """Take the lease, if need be after the previous one has expired.

        ``dead``: the id of a driver that is known to have ended.

        Raises:
            UserError: another driver has the lease, or takes it at the same time.
        """
        first = self.holder()
        if first is not None and first.id != dead:
            say(f"waiting {LEASE_SECONDS:g} s for the lease of another machine to expire")
            if self._is_renewed():
                raise refusal(first)
        self._put(driver)
        if (now := self.holder()) != driver:
            raise refusal(now)

    def check(self, driver: Driver) -> None:
        """Raise `SupersededError` if this driver no longer has the lease."""
        if self.holder() != driver:
            raise SupersededError(
                "another machine considered this one lost and runs the sweep now"
            )

    def renew(self, driver: Driver) -> bool:
        """Renew the lease; returns whether the driver was asked to stop.

        Raises:
            SupersededError: it no longer has the lease.
        """
        self.check(driver)
        self._put(driver)
        return self._store.stat(self._stop(driver)) is not None

    def request_stop(self, driver: Driver) -> None:
        """Ask the driver to stop."""
        self._store.put(self._stop(driver), b"stop")

    def release(self, driver: Driver) -> None:
        """End the lease; raises `SupersededError` if another driver has it."""
        self.check(driver)
        self._store.remove(self._stop(driver))
        self._store.remove(self._record)

    def _put(self, driver: Driver) -> None:
        self._store.put(self._record, json.dumps(asdict(driver)).encode())

    def _is_renewed(self) -> bool:
        """Whether the lease changes within `LEASE_SECONDS`, without comparing clocks."""
        first, deadline = self._store.stat(self._record), time.monotonic() + LEASE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(1.0)
            if (now := self._store.stat(self._record)) != first:
                return now is not None
        return False

    def _stop(self, driver: Driver) -> str:
        return f"{self._home}/{driver.id}.stop"


def lease_of(remote: RemoteFolder) -> Lease:
    """The lease of a sweep in its store."""
    return Lease(remote.store, remote.name)


@contextmanager
def held(remote: RemoteFolder, driver: Driver, say: Say) -> Iterator[None]:
    """Hold the sweep's lease, and keep its folder here and in the store the same.

    Raises:
        UserError: another machine holds the lease, or the store does not respond.
    """
    lease, leased = lease_of(remote), remote.folder / _LEASED
    with as_user_error():
        # The run lock shows that this machine's previous driver has ended.
        lease.acquire(driver, leased.read_text() if leased.exists() else "", say)
    leased.write_text(driver.id)
    stop = stop_file(remote.folder, driver)

    def renew() -> None:
        try:
            if lease.renew(driver):
                stop.touch()
        except SupersededError as error:
            say(f"{error}: this process stops")
            stop.touch()
            raise

    try:
        # Renewed also during a long download or upload.
        with repeated(renew, BEAT_SECONDS), _uploaded(remote, driver, say):
            yield
    finally:
        with suppress(StorageError):  # then the lease expires, or another driver has it
            lease.release(driver)


@contextmanager
def _uploaded(remote: RemoteFolder, driver: Driver, say: Say) -> Iterator[None]:
    """Download other machines' changes; upload changes made here, and the rest at the end."""
    check, patience = partial(lease_of(remote).check, driver), END_SECONDS

    def upload() -> None:
        remote.upload(check)

    def upload_all() -> None:
        remote.upload(check)
        if (remote.folder / DATABASE).exists():  # its last copy may not have been uploaded
            check()
            remote.upload_database()

    def complain(error: Exception) -> None:
        say(f"{error}. The sweep continues; its files are kept here and sent later")

    with as_user_error():
        remote.download()
    try:
        with repeated(upload, BEAT_SECONDS, complain):
            yield
    except KeyboardInterrupt:
        patience = HASTE_SECONDS
        raise
    finally:
        try:
            retry_storage(upload_all, patience)
        except SupersededError:
            pass  # `held` has said it
        except OSError as error:
            say(
                f"{error}. Some files in {remote.folder} are not uploaded yet; run the same "
                "command on this machine to send them"
            )
