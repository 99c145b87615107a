"""What commands and drivers ask of a sweep's storage, be it a folder or an object store.

If the storage is a plain folder, every function does only what that folder needs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path, PurePosixPath

from sweeps.storage import database_backup
from sweeps.storage.address import Address
from sweeps.storage.atomic_io import atomic_folder, linked_copy
from sweeps.storage.lease import Say, held, lease_of
from sweeps.storage.object_store import ObjectStore, StorageError, as_user_error
from sweeps.storage.remote_folder import RemoteFolder
from sweeps.storage.run_lock import Driver, acquire_run_lock, gate, local_driver, request_stop
from sweeps.storage.study_paths import RESOLVED, StudyPaths

Remove = Callable[[Collection[Path]], None]
Fetch = Callable[[Path], None]


@as_user_error()
def remote_of(place: StudyPaths) -> RemoteFolder | None:
    """The sweep's folder in its object store; None if the storage is a folder.

    Raises:
        UserError: the store does not respond.
    """
    if place.address is None:
        return None
    return RemoteFolder(ObjectStore.open(place.address), place.folder)


@as_user_error()
def refresh(place: StudyPaths) -> None:
    """Download the newest state for readers; skipped if the driver runs on this machine.

    Raises:
        UserError: the store does not respond.
    """
    remote = remote_of(place)
    if remote is None or local_driver(place.folder) or not remote.exists():
        return
    with gate(place.folder):  # no driver may begin to write what is replaced here
        if not local_driver(place.folder):
            remote.download()
            live = place.optuna_live()
            if live.exists():  # left by an earlier driver on this machine
                database_backup.restore(live, place.optuna_copy())


@as_user_error()
def stored_sweeps(address: Address) -> list[str]:
    """The names of the sweeps in a storage; empty for the folder of a sweep.

    Raises:
        UserError: the store does not respond.
    """
    store = ObjectStore.open(address)
    if store.stat(RESOLVED) is not None:
        return []
    paths = (path.partition("/") for path in store.files())
    return sorted(name for name, _, file in paths if file == RESOLVED)


@as_user_error()
def check_storage(place: StudyPaths) -> None:
    """Write to the store and read the data back.

    Raises:
        UserError: names what failed.
    """
    if (remote := remote_of(place)) is not None:
        remote.store.check()


@as_user_error()
def living_driver(place: StudyPaths) -> Driver | None:
    """The driver of the sweep on any machine; None if no process runs it.

    Raises:
        UserError: the store does not respond.
    """
    here, remote = local_driver(place.folder), remote_of(place)
    return here if here is not None or remote is None else lease_of(remote).living()


@as_user_error()
def stop_driver(place: StudyPaths) -> Driver | None:
    """Ask the living driver to stop, on any machine; returns it.

    Raises:
        UserError: the store does not respond.
    """
    if (here := request_stop(place.folder)) is not None:
        return here
    remote, there = remote_of(place), living_driver(place)
    if remote is not None and there is not None:
        lease_of(remote).request_stop(there)
    return there


@as_user_error()
def send_database(place: StudyPaths) -> None:
    """Copy the records that a command changed to where the next driver finds them.

    Raises:
        UserError: the store does not respond.
    """
    remote = remote_of(place)
    upload = database_backup.nothing if remote is None else remote.upload_database
    if place.is_copied() and place.optuna_live().exists():
        database_backup.backup(place.optuna_live(), place.optuna_copy(), upload)
    else:
        upload()


def fetcher(place: StudyPaths) -> Fetch:
    """A function that downloads the new lines of a trial's events; it raises `StorageError`."""
    remote = remote_of(place)
    return (lambda file: None) if remote is None else remote.download_lines


@as_user_error()
def copy_folder(place: StudyPaths, folder: Path, target: Path) -> bool:
    """Copy a folder of the sweep to ``target``; False if it does not exist.

    Raises:
        UserError: the store does not respond.
    """
    if (remote := remote_of(place)) is not None:
        return remote.download_tree(folder, target)
    if folder.is_dir():
        shutil.copytree(folder, target)
    return folder.is_dir()


@as_user_error()
def files_below(place: StudyPaths, folder: Path) -> list[PurePosixPath]:
    """The files of a folder of the sweep, here or in the store, by their paths in it.

    Raises:
        UserError: the store does not respond.
    """
    if (remote := remote_of(place)) is not None:
        return remote.files_below(folder)
    return [PurePosixPath(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]


@as_user_error()
def copy_within(place: StudyPaths, folder: Path, target: Path, last: str) -> None:
    """Copy a folder of finished files to ``target`` in the sweep, unless that exists.

    ``last``: the name of the file without which a copy in a store is incomplete.

    Raises:
        FileNotFoundError: the folder was removed meanwhile.
        shutil.Error: some of its files were.
        UserError: the store does not respond.
    """
    if (remote := remote_of(place)) is not None:
        remote.copy_tree(folder, target, last)
    elif not target.exists():
        with atomic_folder(target) as partial:
            linked_copy(folder, partial)
            (folder / last).stat()  # still there, so nothing of it was missing


def remove_here(paths: Collection[Path]) -> None:
    """Remove files and folders of this machine; a missing one is no error."""
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
        if path.is_file():
            path.unlink(missing_ok=True)


@as_user_error()
def remove(place: StudyPaths, paths: Collection[Path]) -> None:
    """Remove files and folders of the sweep, here and in the store.

    Raises:
        UserError: the store does not respond.
    """
    remove_here(paths)
    if paths and (remote := remote_of(place)) is not None:
        remote.remove(paths)


def remover(place: StudyPaths) -> Remove:
    """A function like ``remove`` for a driver: if the store does not respond, the next call tries
    again."""
    remote, done = remote_of(place), set[Path]()

    def remove(paths: Collection[Path]) -> None:
        remove_here(paths)
        new = set(paths) - done
        if remote is not None and new:
            with suppress(StorageError):
                remote.remove(new)
                done.update(new)

    return remove


@contextmanager
def acquire_run(place: StudyPaths, say: Say) -> Iterator[Driver]:
    """Acquire the run lock of a sweep; in an object store also its lease (see `lease.held`).

    Raises:
        UserError: another process drives the sweep, or the store does not respond.
    """
    remote = remote_of(place)
    with (
        acquire_run_lock(place.folder) as driver,
        nullcontext() if remote is None else held(remote, driver, say),
    ):
        yield driver


@contextmanager
def database_kept(place: StudyPaths, driver: Driver, say: Say) -> Iterator[None]:
    """Restore the database if necessary; back it up during the block (`database_backup.kept`).

    Raises:
        UserError: the copy is not a valid database, or the last backup failed.
    """
    remote = remote_of(place)

    def upload() -> None:
        if remote is not None:
            lease_of(remote).check(driver)
            remote.upload_database()

    with database_backup.kept(place.optuna_live(), place.optuna_copy(), say, deliver=upload):
        yield
