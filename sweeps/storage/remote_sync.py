"""Synchronize a sweep's folder with the object store it mirrors.

If the storage is a plain folder, every function does only what that folder needs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from sweeps.storage import database_backup
from sweeps.storage.lease import Say, check_held, held, leases_of
from sweeps.storage.mirror import Mirror
from sweeps.storage.object_store import ObjectStore, as_user_error
from sweeps.storage.run_lock import Driver, acquire_run_lock, gate, local_driver, request_stop
from sweeps.storage.study_paths import StudyPaths

Remove = Callable[[Path], None]
Fetch = Callable[[Path], None]


def mirror_of(place: StudyPaths) -> Mirror | None:
    """The mirror of the sweep's object store; None if the storage is a folder.

    Raises:
        UserError: the store does not respond.
    """
    if place.address is None:
        return None
    with as_user_error():
        return Mirror(ObjectStore.open(place.address), place.folder)


def refresh(place: StudyPaths) -> None:
    """Download the newest state for readers; skipped if the driver runs on this machine.

    Raises:
        UserError: the store does not respond.
    """
    mirror = mirror_of(place)
    if mirror is None:
        return
    with as_user_error():
        if local_driver(place.folder) or not mirror.exists():
            return
        with gate(place.folder):  # no driver may begin to write what is replaced here
            if not local_driver(place.folder):
                _refresh(place, mirror)


def _refresh(place: StudyPaths, mirror: Mirror) -> None:
    mirror.pull()
    live = place.optuna_live()
    if live.exists():  # left by an earlier driver on this machine
        database_backup.restore(live, place.optuna_copy())


def check_storage(place: StudyPaths) -> None:
    """Write to the store and read the data back.

    Raises:
        UserError: names what failed.
    """
    mirror = mirror_of(place)
    if mirror is not None:
        with as_user_error():
            mirror.store.check()


def living_driver(place: StudyPaths) -> Driver | None:
    """The driver of the sweep, wherever it is; None where nobody drives.

    Raises:
        UserError: the store does not answer.
    """
    here, mirror = local_driver(place.folder), mirror_of(place)
    if here is not None or mirror is None:
        return here
    with as_user_error():
        return leases_of(mirror).living()


def stop_driver(place: StudyPaths) -> Driver | None:
    """Ask the living driver to stop, wherever it is; returns it.

    Raises:
        UserError: the store does not answer.
    """
    if (here := request_stop(place.folder)) is not None:
        return here
    mirror, there = mirror_of(place), living_driver(place)
    if mirror is not None and there is not None:
        with as_user_error():
            leases_of(mirror).request_stop(there.id)
    return there


def send(place: StudyPaths, *, records: bool) -> None:
    """Upload what a command changed; ``records``: include the database.

    Raises:
        UserError: the store does not respond.
    """
    mirror, live = mirror_of(place), place.optuna_live()
    with as_user_error():
        if mirror is not None:
            mirror.push()
        if records and place.is_copied():
            deliver = database_backup.nothing if mirror is None else mirror.push_database
            if live.exists():
                database_backup.backup(live, place.optuna_copy(), deliver)
            else:
                deliver()


def fetcher(place: StudyPaths) -> Fetch:
    """A function that downloads the new lines of a trial's events; it raises `StorageError`."""
    mirror = mirror_of(place)
    return (lambda file: None) if mirror is None else mirror.tail


def copy_folder(place: StudyPaths, folder: Path, target: Path) -> bool:
    """Copy a folder of the sweep to ``target``; False if it does not exist.

    Raises:
        UserError: the store does not respond.
    """
    mirror = mirror_of(place)
    if mirror is not None:
        with as_user_error():
            return mirror.copy_tree(folder, target)
    if folder.is_dir():
        shutil.copytree(folder, target)
    return folder.is_dir()


def remove_folder(folder: Path) -> None:
    """Remove a folder with its contents; a missing folder is no error."""
    shutil.rmtree(folder, ignore_errors=True)


def remover(place: StudyPaths) -> Remove:
    """A function that removes a folder of the sweep here, and in the store with the next push."""
    mirror, done = mirror_of(place), set[Path]()

    def remove(folder: Path) -> None:
        remove_folder(folder)
        if mirror is not None and folder not in done:
            mirror.schedule_delete(folder)
            done.add(folder)

    return remove


@contextmanager
def acquire_run(place: StudyPaths, say: Say) -> Iterator[Driver]:
    """Be the driver of a sweep (`run_lock.acquire_run_lock`), and keep the store as the folder is.

    Raises:
        UserError: another process drives it, here or elsewhere; or the store does not answer.
    """
    mirror = mirror_of(place)
    with (
        acquire_run_lock(place.folder) as driver,
        nullcontext() if mirror is None else held(mirror, driver, say),
    ):
        yield driver


def database_sender(place: StudyPaths, driver: Driver) -> Callable[[], None]:
    """A function that uploads the database copy while this driver holds the sweep.

    It raises `StorageError`.
    """
    mirror = mirror_of(place)

    def deliver() -> None:
        if mirror is not None:
            check_held(mirror, driver)
            mirror.push_database()

    return deliver
