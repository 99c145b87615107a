"""A driver holds its sweep against other machines, and against who looks on its own."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from sweeps.errors import UserError
from sweeps.folder import database, hold, stored
from sweeps.folder.drivers import living_drivers
from sweeps.folder.place import StudyPlace
from sweeps.storage import leases
from sweeps.storage.leases import Leases
from sweeps.storage.mirror import Mirror
from sweeps.storage.object_store import ObjectStore
from tests.sweeps.driven import driven
from tests.sweeps.storage.machines import elsewhere, quiet, read, write


def test_another_machine_sees_the_driver_and_may_stop_it(
    place: StudyPlace, store: ObjectStore, tmp_path: Path
) -> None:
    there = elsewhere(place, tmp_path)

    def stop_it() -> None:
        stored.refresh(there)
        seen.extend(living_drivers(there.folder))
        stored.stop_drivers(there)

    seen: list[object] = []
    with pytest.raises(KeyboardInterrupt), stored.driven(place, quiet) as driver:
        thread = threading.Thread(target=stop_it)
        thread.start()
        time.sleep(20)
    thread.join()
    assert seen == [driver]
    stored.refresh(there)
    assert living_drivers(there.folder) == []


def test_a_sweep_that_another_machine_drives_is_refused(place: StudyPlace, tmp_path: Path) -> None:
    with stored.driven(place, quiet):
        there = elsewhere(place, tmp_path)
        with (
            pytest.raises(UserError, match="is being run already, by process"),
            stored.driven(there, quiet),
        ):
            pass
        with (
            pytest.raises(UserError, match="on another machine"),
            stored.driven(there, quiet, join=True),
        ):
            pass


def test_a_driver_that_was_taken_for_lost_stops_and_writes_no_more(
    place: StudyPlace, store: ObjectStore, tmp_path: Path
) -> None:
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt), stored.driven(place, said.append) as driver:
        leases = Leases(store, "sweep")
        leases.end(driver.id)  # as the machine does that takes over
        with pytest.raises(hold.LostError):
            stored.database_sender(place, driver)()
        time.sleep(20)
    assert any("took this one for lost" in text for text in said)
    (place.folder / "late.json").write_text("{}")
    assert "sweep/late.json" not in store.files()


def test_a_driver_that_was_killed_here_is_not_waited_for(
    place: StudyPlace, store: ObjectStore
) -> None:
    with driven(place.folder) as process:
        (place.folder / ".leased").write_text("ab\n")
        Leases(store, "sweep").put("ab", "{}")
        process.kill()
        process.wait()
    said: list[str] = []
    with stored.driven(place, said.append) as driver:
        assert Leases(store, "sweep").drivers() == [driver.id]
    assert said == []


@pytest.mark.parametrize("at_the_end", [False, True])
def test_a_driver_lives_on_for_others_while_it_sends_for_long(
    place: StudyPlace,
    store: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at_the_end: bool,
) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.5)
    upload, sends = ObjectStore.upload, threading.Event()

    def slow(self: ObjectStore, file: Path, path: str) -> None:
        sends.set()
        time.sleep(0.5)
        upload(self, file, path)

    def drive_there() -> None:
        sends.wait()
        try:
            with stored.driven(elsewhere(place, tmp_path), quiet):
                refused.append("not at all")
        except UserError as error:
            refused.append(str(error))

    refused: list[str] = []
    other = threading.Thread(target=drive_there)
    monkeypatch.setattr(ObjectStore, "upload", slow)
    with stored.driven(place, quiet):
        if at_the_end:
            monkeypatch.setattr(hold, "PUSH_SECONDS", 60.0)
        other.start()
        for number in range(10):
            (place.folder / f"{number}.html").write_text("a page")
        if not at_the_end:
            other.join()
    other.join()
    assert "is being run already" in refused[0]
    assert len(store.files()) == 10


def test_a_driver_that_is_taken_for_lost_stops_amid_what_it_sends(
    place: StudyPlace, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = ObjectStore.upload

    def last(self: ObjectStore, file: Path, path: str) -> None:
        upload(self, file, path)
        Leases(store, "sweep").end(driver.id)

    with pytest.raises(KeyboardInterrupt), stored.driven(place, quiet) as driver:
        monkeypatch.setattr(ObjectStore, "upload", last)
        with FileLock(place.folder / ".mirror.lock"):
            for number in range(5):
                (place.folder / f"{number}.html").write_text("a page")
        time.sleep(20)
    assert len(store.files()) == 1


def test_a_driver_that_begins_beside_a_refused_one_keeps_its_lease(
    place: StudyPlace, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stored.driven(place, quiet) as driver:
        here = iter([[]])  # a second run looked before this one was there, and then slept
        look = hold.drivers_here
        monkeypatch.setattr(stored, "drivers_here", lambda folder: next(here, look(folder)))
        with pytest.raises(UserError, match="is being run already"), stored.driven(place, quiet):
            pass
        assert Leases(store, "sweep").drivers() == [driver.id]


def test_a_database_on_a_server_lets_no_other_machine_join(
    place: StudyPlace, tmp_path: Path
) -> None:
    place = replace(place, database="postgresql://u@h/n")
    with (
        stored.driven(place, quiet),
        pytest.raises(UserError, match=r"being run on another machine.*join it from there"),
        stored.driven(elsewhere(place, tmp_path), quiet, join=True),
    ):
        pass


def test_who_looks_while_a_driver_begins_replaces_none_of_its_records(
    place: StudyPlace, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, copy = place.optuna_live(), place.optuna_copy()
    with (
        stored.driven(place, quiet) as driver,
        database.kept(live, copy, quiet, deliver=stored.database_sender(place, driver)),
    ):
        write(live, 1)
    pull, looks, goes_on = Mirror.pull, threading.Event(), threading.Event()

    def slow(self: Mirror) -> None:
        if threading.current_thread().name != "status":
            return pull(self)
        old = copy.read_bytes()
        looks.set()
        goes_on.wait(2)  # a driver that begins now may have copied its database out by then
        copy.write_bytes(old)

    monkeypatch.setattr(Mirror, "pull", slow)
    status = threading.Thread(target=stored.refresh, args=(place,), name="status")
    status.start()
    looks.wait()
    with stored.driven(place, quiet) as driver:
        deliver = stored.database_sender(place, driver)
        with database.kept(live, copy, quiet, deliver=deliver):
            write(live, 2)
            database.copy_out(live, copy, deliver)
            goes_on.set()
            status.join()
            assert read(live) == [1, 2]
    assert read(copy) == [1, 2]
