"""A sweep's folder where the storage is an object store: fetched, kept and cleared.

With a folder as storage every function here does nothing more than that folder needs.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from sweeps.errors import UserError
from sweeps.folder import database
from sweeps.folder.drivers import Driver, drivers_here, driving, note_elsewhere, request_stop
from sweeps.folder.place import StudyPlace
from sweeps.storage.leases import BEAT_SECONDS, CLOCKS_SECONDS, LEASE_SECONDS, Leases
from sweeps.storage.mirror import Mirror
from sweeps.storage.object_store import ObjectStore, StorageError
from sweeps.storage.ownership import DATABASE

PUSH_SECONDS = 2.0
END_SECONDS, HASTE_SECONDS = 120.0, 5.0
"""How long the end of a sweep waits for a store that does not answer; the second is where a
person has asked for the end."""

_LEASED = ".leased"
"""In the mirror: the drivers that this machine told the store of, and has not taken back."""

Remove = Callable[[Path], None]
Say = Callable[[str], None]


def mirror_of(place: StudyPlace) -> Mirror | None:
    """The folder beside its object store; None where the folder itself is the storage.

    Raises:
        UserError: the store does not answer.
    """
    if place.address is None:
        return None
    with _told():
        return Mirror(ObjectStore.open(place.address), place.folder)


def refresh(place: StudyPlace) -> None:
    """Make the folder the newest there is, for who reads it; it is so where its driver is here.

    Raises:
        UserError: the store does not answer.
    """
    mirror = mirror_of(place)
    if mirror is None or drivers_here(place.folder):
        return
    with _told():
        mirror.pull()
        note_elsewhere(place.folder, _leases(mirror).living(), CLOCKS_SECONDS)
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
        with _told():
            mirror.store.check()


def stop_drivers(place: StudyPlace) -> list[Driver]:
    """Ask every living driver to stop, wherever it is; returns whom.

    Raises:
        UserError: the store does not answer.
    """
    mirror, here = mirror_of(place), {driver.id for driver in drivers_here(place.folder)}
    asked = request_stop(place.folder)
    if mirror is not None:
        with _told():
            for driver in asked:
                if driver.id not in here:
                    _leases(mirror).request_stop(driver.id)
    return asked


def send(place: StudyPlace, *, records: bool) -> None:
    """Put what a command changed into the store; ``records``: the database, too.

    Raises:
        UserError: the store does not answer.
    """
    mirror = mirror_of(place)
    if mirror is not None:
        with _told():
            mirror.push()
            if records and place.database is None and not place.optuna_live().exists():
                mirror.push_database()


def fetcher(place: StudyPlace) -> Remove:
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
        with _told():
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
        here = {driver.id for driver in drivers_here(place.folder)}
        with _told():
            _take_back(mirror, here)
            note_elsewhere(place.folder, _leases(mirror).outlived(here, say), LEASE_SECONDS)
    with driving(place.folder, join=join, one_host=place.is_copied()) as driver:
        if mirror is None:
            yield driver
            return
        with _leased(mirror, driver, say):
            yield driver


@contextmanager
def _leased(mirror: Mirror, driver: Driver, say: Say) -> Iterator[None]:
    """Hold the sweep against other machines, fetch what they left, and push what changes."""
    leases, over = _leases(mirror), threading.Event()
    with _told():
        with (mirror.folder / _LEASED).open("a") as ours:
            ours.write(f"{driver.id}\n")
        leases.put(driver.id, json.dumps(asdict(driver)))
        here = {each.id for each in drivers_here(mirror.folder)}
        if others := set(leases.drivers()) - here:
            leases.end(driver.id)
            raise UserError(
                f"another machine begins to run this sweep at this moment ({len(others)} more): "
                "see with `status`, and try again"
            )
        if here == {driver.id}:
            mirror.pull()
    keeper = threading.Thread(
        target=_keep, args=(mirror, driver, over, say), name="storage", daemon=True
    )
    keeper.start()
    patience = END_SECONDS
    try:
        yield
    except KeyboardInterrupt:
        patience = HASTE_SECONDS
        raise
    finally:
        over.set()
        keeper.join()
        _finish(mirror, driver, say, patience)


def database_sender(place: StudyPlace, driver: Driver) -> Callable[[], None]:
    """What puts the copy of the database into the store, as long as this driver holds the sweep;
    it raises `StorageError`."""
    mirror = mirror_of(place)

    def deliver() -> None:
        if mirror is not None:
            _check_held(mirror, driver)
            mirror.push_database()

    return deliver


def _take_back(mirror: Mirror, here: set[str]) -> None:
    """End the records of drivers that were killed on this machine: nobody need wait for them."""
    ours = mirror.folder / _LEASED
    if ours.exists():
        for driver in set(ours.read_text().split()) - here:
            _leases(mirror).end(driver)
        ours.write_text("".join(f"{driver}\n" for driver in here))


def _keep(mirror: Mirror, driver: Driver, over: threading.Event, say: Say) -> None:
    complained, beaten, pause = False, 0.0, PUSH_SECONDS
    while not over.wait(pause):
        began = time.monotonic()
        try:
            _check_held(mirror, driver)
            if began - beaten > BEAT_SECONDS:
                _beat(mirror, driver)
                beaten = began
            mirror.push()
            complained = False
        except LostError as error:
            say(f"{error}: this process stops")
            _request(mirror, driver).touch()
            return
        except OSError as error:
            if not complained:
                say(f"{error}. The sweep goes on; what it writes is kept here and sent later")
            complained = True
        pause = max(PUSH_SECONDS, time.monotonic() - began)


class LostError(StorageError):
    """This machine was taken for lost, and its sweep is driven by another."""


def _check_held(mirror: Mirror, driver: Driver) -> None:
    if driver.id not in _leases(mirror).drivers():
        raise LostError("another machine took this one for lost, and runs the sweep now")


def _beat(mirror: Mirror, driver: Driver) -> None:
    """Live on for other machines, and hear what they ask."""
    leases = _leases(mirror)
    leases.put(driver.id, json.dumps(asdict(driver)))
    if driver.id in leases.asked_to_stop():
        _request(mirror, driver).touch()


def _request(mirror: Mirror, driver: Driver) -> Path:
    """What a driver takes for a request to stop, as `drivers.request_stop` leaves it."""
    return mirror.folder / "drivers" / f"{driver.id}.stop"


def _finish(mirror: Mirror, driver: Driver, say: Say, patience: float) -> None:
    """The last push."""
    deadline = time.monotonic() + patience
    while True:
        try:
            _check_held(mirror, driver)
            mirror.push()
            if (mirror.folder / DATABASE).exists():  # its last copy may not have come there
                mirror.push_database()
            _leases(mirror).end(driver.id)
            return
        except LostError:
            return
        except OSError as error:
            if time.monotonic() > deadline:
                say(
                    f"{error}. Not everything is there yet: it lies in {mirror.folder}, and the "
                    "same command on this machine sends it"
                )
                return
        time.sleep(PUSH_SECONDS)


def _leases(mirror: Mirror) -> Leases:
    return Leases(mirror.store, mirror.folder.name)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        raise UserError(str(error)) from None
