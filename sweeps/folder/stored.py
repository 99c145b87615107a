"""A sweep's folder where the storage is an object store: fetched, kept and cleared.

With a folder as storage every function here does nothing more than that folder needs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from sweeps.folder import database
from sweeps.folder.drivers import (
    Driver,
    drivers_here,
    driving,
    gate,
    note_elsewhere,
    request_stop,
)
from sweeps.folder.hold import Say, check_held, held, leases_of, take_back
from sweeps.folder.place import StudyPlace
from sweeps.storage.leases import CLOCKS_SECONDS, LEASE_SECONDS
from sweeps.storage.mirror import Mirror
from sweeps.storage.object_store import ObjectStore
from sweeps.storage.told import told

Remove = Callable[[Path], None]
Fetch = Callable[[Path], None]


def mirror_of(place: StudyPlace) -> Mirror | None:
    """The folder beside its object store; None where the folder itself is the storage.

    Raises:
        UserError: the store does not answer.
    """
    if place.address is None:
        return None
    with told():
        return Mirror(ObjectStore.open(place.address), place.folder)


def refresh(place: StudyPlace) -> None:
    """Make the folder the newest there is, for who reads it; it is so where its driver is here.

    Raises:
        UserError: the store does not answer.
    """
    mirror = mirror_of(place)
    if mirror is None:
        return
    with told():
        if drivers_here(place.folder) or not mirror.exists():
            return
        with gate(place.folder):  # no driver may begin to write what is replaced here
            if not drivers_here(place.folder):
                _refresh(place, mirror)


def _refresh(place: StudyPlace, mirror: Mirror) -> None:
    mirror.pull()
    note_elsewhere(place.folder, leases_of(mirror).living(), CLOCKS_SECONDS)
    live = place.optuna_live()
    if live.exists():  # of a driver that ran here once
        database.bring_back(live, place.optuna_copy())


def check_storage(place: StudyPlace) -> None:
    """Write to the store and read it again.

    Raises:
        UserError: what is wrong with it.
    """
    mirror = mirror_of(place)
    if mirror is not None:
        with told():
            mirror.store.check()


def stop_drivers(place: StudyPlace) -> list[Driver]:
    """Ask every living driver to stop, wherever it is; returns whom.

    Raises:
        UserError: the store does not answer.
    """
    mirror, here = mirror_of(place), {driver.id for driver in drivers_here(place.folder)}
    asked = request_stop(place.folder)
    if mirror is not None:
        with told():
            for driver in asked:
                if driver.id not in here:
                    leases_of(mirror).request_stop(driver.id)
    return asked


def send(place: StudyPlace, *, records: bool) -> None:
    """Put what a command changed into the store; ``records``: the database, too.

    Raises:
        UserError: the store does not answer.
    """
    mirror, live = mirror_of(place), place.optuna_live()
    with told():
        if mirror is not None:
            mirror.push()
        if records and place.is_copied():
            deliver = database.nothing if mirror is None else mirror.push_database
            if live.exists():
                database.copy_out(live, place.optuna_copy(), deliver)
            else:
                deliver()


def fetcher(place: StudyPlace) -> Fetch:
    """What brings here what was added to a trial's events; it raises `StorageError`."""
    mirror = mirror_of(place)
    return (lambda file: None) if mirror is None else mirror.tail


def copy_folder(place: StudyPlace, folder: Path, target: Path) -> bool:
    """Copy a folder of the sweep to a place outside of it; False where there is none.

    Raises:
        UserError: the store does not answer.
    """
    mirror = mirror_of(place)
    if mirror is not None:
        with told():
            return mirror.copy_tree(folder, target)
    if folder.is_dir():
        shutil.copytree(folder, target)
    return folder.is_dir()


def remove_folder(folder: Path) -> None:
    """With all that is in it; harmless where there is none."""
    shutil.rmtree(folder, ignore_errors=True)


def remover(place: StudyPlace) -> Remove:
    """What removes a folder of the sweep, each once, here and with the next push in the store."""
    mirror, done = mirror_of(place), set[Path]()

    def remove(folder: Path) -> None:
        remove_folder(folder)
        if mirror is not None and folder not in done:
            mirror.doom(folder)
            done.add(folder)

    return remove


@contextmanager
def driven(place: StudyPlace, say: Say, *, join: bool = False) -> Iterator[Driver]:
    """Be a driver of a sweep (`drivers.driving`), and keep the store as the folder is.

    Raises:
        UserError: another process drives it, here or elsewhere; or the store does not answer.
    """
    mirror = mirror_of(place)
    if mirror is not None:
        with told():
            take_back(mirror)
            here = {driver.id for driver in drivers_here(place.folder)}
            note_elsewhere(place.folder, leases_of(mirror).outlived(here, say), LEASE_SECONDS)
    # What an object store has is kept there by one machine, wherever the database is.
    one_host = place.is_copied() or mirror is not None
    with (
        driving(place.folder, join=join, one_host=one_host) as driver,
        nullcontext() if mirror is None else held(mirror, driver, say),
    ):
        yield driver


def database_sender(place: StudyPlace, driver: Driver) -> Callable[[], None]:
    """What puts the copy of the database into the store, as long as this driver holds the sweep;
    it raises `StorageError`."""
    mirror = mirror_of(place)

    def deliver() -> None:
        if mirror is not None:
            check_held(mirror, driver)
            mirror.push_database()

    return deliver
