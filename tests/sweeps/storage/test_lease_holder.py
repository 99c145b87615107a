"""A driver holds its sweep against other machines, and against who looks on its own."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from sweeps.storage import database_backup, lease, remote_sync
from sweeps.storage import lease as leases
from sweeps.storage.errors import UserError
from sweeps.storage.lease import Leases
from sweeps.storage.mirror import Mirror
from sweeps.storage.object_store import ObjectStore
from sweeps.storage.run_lock import living_drivers
from sweeps.storage.study_paths import StudyPaths
from tests.sweeps.another_driver import another_driver
from tests.sweeps.storage.machines import elsewhere, quiet, read, write


def test_another_machine_sees_the_driver_and_may_stop_it(
    place: StudyPaths, store: ObjectStore, tmp_path: Path
) -> None:
    there = elsewhere(place, tmp_path)

    def stop_it() -> None:
        remote_sync.refresh(there)
        seen.extend(living_drivers(there.folder))
        remote_sync.stop_drivers(there)

    seen: list[object] = []
    with pytest.raises(KeyboardInterrupt), remote_sync.acquire_run(place, quiet) as driver:
        thread = threading.Thread(target=stop_it)
        thread.start()
        time.sleep(20)
    thread.join()
    assert seen == [driver]
    remote_sync.refresh(there)
    assert living_drivers(there.folder) == []


def test_a_sweep_that_another_machine_drives_is_refused(place: StudyPaths, tmp_path: Path) -> None:
    with remote_sync.acquire_run(place, quiet):
        there = elsewhere(place, tmp_path)
        with (
            pytest.raises(UserError, match="is being run already, by process"),
            remote_sync.acquire_run(there, quiet),
        ):
            pass
        with (
            pytest.raises(UserError, match="on another machine"),
            remote_sync.acquire_run(there, quiet, join=True),
        ):
            pass


def test_a_driver_that_was_taken_for_lost_stops_and_writes_no_more(
    place: StudyPaths, store: ObjectStore, tmp_path: Path
) -> None:
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt), remote_sync.acquire_run(place, said.append) as driver:
        leases = Leases(store, "sweep")
        leases.end(driver.id)  # as the machine does that takes over
        with pytest.raises(lease.LostError):
            remote_sync.database_sender(place, driver)()
        time.sleep(20)
    assert any("considered this one lost" in text for text in said)
    (place.folder / "late.json").write_text("{}")
    assert "sweep/late.json" not in store.files()


def test_a_driver_that_was_killed_here_is_not_waited_for(
    place: StudyPaths, store: ObjectStore
) -> None:
    with another_driver(place.folder) as process:
        (place.folder / ".leased").write_text("ab\n")
        Leases(store, "sweep").put("ab", "{}")
        process.kill()
        process.wait()
    said: list[str] = []
    with remote_sync.acquire_run(place, said.append) as driver:
        assert Leases(store, "sweep").drivers() == [driver.id]
    assert said == []


@pytest.mark.parametrize("at_the_end", [False, True])
def test_a_driver_lives_on_for_others_while_it_sends_for_long(
    place: StudyPaths,
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
            with remote_sync.acquire_run(elsewhere(place, tmp_path), quiet):
                refused.append("not at all")
        except UserError as error:
            refused.append(str(error))

    refused: list[str] = []
    other = threading.Thread(target=drive_there)
    monkeypatch.setattr(ObjectStore, "upload", slow)
    with remote_sync.acquire_run(place, quiet):
        if at_the_end:
            monkeypatch.setattr(lease, "PUSH_SECONDS", 60.0)
        other.start()
        for number in range(10):
            (place.folder / f"{number}.html").write_text("a page")
        if not at_the_end:
            other.join()
    other.join()
    assert "is being run already" in refused[0]
    assert len(store.files()) == 10


def test_a_driver_that_is_taken_for_lost_stops_amid_what_it_sends(
    place: StudyPaths, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = ObjectStore.upload

    def last(self: ObjectStore, file: Path, path: str) -> None:
        upload(self, file, path)
        Leases(store, "sweep").end(driver.id)

    with pytest.raises(KeyboardInterrupt), remote_sync.acquire_run(place, quiet) as driver:
        monkeypatch.setattr(ObjectStore, "upload", last)
        with FileLock(place.folder / ".mirror.lock"):
            for number in range(5):
                (place.folder / f"{number}.html").write_text("a page")
        time.sleep(20)
    assert len(store.files()) == 1


def test_a_driver_that_begins_beside_a_refused_one_keeps_its_lease(
    place: StudyPaths, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with remote_sync.acquire_run(place, quiet) as driver:
        here = iter([[]])  # a second run looked before this one was there, and then slept
        look = lease.local_drivers
        monkeypatch.setattr(remote_sync, "local_drivers", lambda folder: next(here, look(folder)))
        with (
            pytest.raises(UserError, match="is being run already"),
            remote_sync.acquire_run(place, quiet),
        ):
            pass
        assert Leases(store, "sweep").drivers() == [driver.id]


def test_a_database_on_a_server_lets_no_other_machine_join(
    place: StudyPaths, tmp_path: Path
) -> None:
    place = replace(place, database="postgresql://u@h/n")
    with (
        remote_sync.acquire_run(place, quiet),
        pytest.raises(UserError, match=r"being run on another machine.*join it from there"),
        remote_sync.acquire_run(elsewhere(place, tmp_path), quiet, join=True),
    ):
        pass


def test_who_looks_while_a_driver_begins_replaces_none_of_its_records(
    place: StudyPaths, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, copy = place.optuna_live(), place.optuna_copy()
    with (
        remote_sync.acquire_run(place, quiet) as driver,
        database_backup.kept(
            live, copy, quiet, deliver=remote_sync.database_sender(place, driver)
        ),
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
    status = threading.Thread(target=remote_sync.refresh, args=(place,), name="status")
    status.start()
    looks.wait()
    with remote_sync.acquire_run(place, quiet) as driver:
        deliver = remote_sync.database_sender(place, driver)
        with database_backup.kept(live, copy, quiet, deliver=deliver):
            write(live, 2)
            database_backup.backup(live, copy, deliver)
            goes_on.set()
            status.join()
            assert read(live) == [1, 2]
    assert read(copy) == [1, 2]
