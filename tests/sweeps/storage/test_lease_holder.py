"""A driver holds its sweep against other machines, and against who looks on its own."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.storage import database_backup, lease, remote_sync
from sweeps.storage.errors import UserError
from sweeps.storage.lease import Lease
from sweeps.storage.object_store import ObjectStore
from sweeps.storage.remote_folder import RemoteFolder
from sweeps.storage.run_lock import Driver, local_driver
from sweeps.storage.study_paths import StudyPaths
from tests.sweeps.another_driver import another_driver
from tests.sweeps.storage.machines import elsewhere, quiet, read, write

OTHER = Driver("ab", "lost", 1, "me", "2026-01-02 03:04:05")


@pytest.fixture
def take_over(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Another machine takes the lease, not amid a renewal: it waits longer than one takes."""
    renew, turn = Lease.renew, threading.Lock()

    def in_turn(self: Lease, driver: Driver) -> bool:
        with turn:
            return renew(self, driver)

    def take() -> None:
        with turn:
            Lease(store, "sweep")._put(OTHER)

    monkeypatch.setattr(Lease, "renew", in_turn)
    return take


def test_another_machine_sees_the_driver_and_may_stop_it(
    place: StudyPaths, store: ObjectStore, tmp_path: Path
) -> None:
    there = elsewhere(place, tmp_path)

    def stop_it() -> None:
        seen.append(remote_sync.living_driver(there))
        seen.append(remote_sync.stop_driver(there))

    seen: list[object] = []
    with pytest.raises(KeyboardInterrupt), remote_sync.acquire_run(place, quiet) as driver:
        thread = threading.Thread(target=stop_it)
        thread.start()
        time.sleep(20)
    thread.join()
    assert seen == [driver, driver]
    assert remote_sync.living_driver(there) is None


def test_a_sweep_that_another_machine_drives_is_refused(place: StudyPaths, tmp_path: Path) -> None:
    with remote_sync.acquire_run(place, quiet) as driver:
        there = elsewhere(place, tmp_path)
        with (
            pytest.raises(UserError, match=re.escape(f"already running ({driver})")),
            remote_sync.acquire_run(there, quiet),
        ):
            pass
        assert local_driver(there.folder) is None


def test_a_lost_heads_lease_expires(
    place: StudyPaths, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.5)
    Lease(store, "sweep")._put(OTHER)
    said: list[str] = []
    with remote_sync.acquire_run(place, said.append) as driver:
        assert Lease(store, "sweep").holder() == driver
    assert said == ["waiting 1.5 s for the lease of another machine to expire"]


def test_a_driver_that_was_taken_for_lost_stops_and_writes_no_more(
    place: StudyPaths, store: ObjectStore, take_over: Callable[[], None]
) -> None:
    said: list[str] = []
    with (
        pytest.raises(KeyboardInterrupt),
        remote_sync.acquire_run(place, said.append) as driver,
        remote_sync.database_kept(place, driver, quiet),
    ):
        take_over()
        write(place.optuna_live(), 1)
        time.sleep(20)
    assert "sweep/optuna.db" not in store.files()
    assert any("considered this one lost" in text for text in said)
    (place.folder / "late.json").write_text("{}")
    assert "sweep/late.json" not in store.files()


def test_a_driver_that_was_killed_here_is_not_waited_for(
    place: StudyPaths, store: ObjectStore
) -> None:
    with another_driver(place.folder) as process:
        (place.folder / ".leased").write_text(OTHER.id)
        Lease(store, "sweep")._put(OTHER)
        process.kill()
        process.wait()
    said: list[str] = []
    with remote_sync.acquire_run(place, said.append) as driver:
        assert Lease(store, "sweep").holder() == driver
    assert said == []


@pytest.mark.parametrize("at_the_end", [False, True])
def test_a_driver_lives_on_for_others_while_it_sends_for_long(
    place: StudyPaths,
    store: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at_the_end: bool,
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.5)
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
        other.start()
        for number in range(10):
            (place.folder / f"{number}.html").write_text("a page")
        if not at_the_end:
            other.join()
    other.join()
    assert "already running" in refused[0]
    assert len(store.files()) == 10


def test_a_driver_that_is_taken_for_lost_stops_amid_what_it_sends(
    place: StudyPaths,
    store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    take_over: Callable[[], None],
) -> None:
    upload = ObjectStore.upload

    def last(self: ObjectStore, file: Path, path: str) -> None:
        upload(self, file, path)
        take_over()

    with pytest.raises(KeyboardInterrupt), remote_sync.acquire_run(place, quiet):
        monkeypatch.setattr(ObjectStore, "upload", last)
        for number in range(5):
            (place.folder / f"{number}.html").write_text("a page")
        time.sleep(20)
    assert len([name for name in store.files() if name.endswith(".html")]) == 1


def test_a_second_run_on_this_machine_leaves_the_lease_of_the_first(
    place: StudyPaths, store: ObjectStore
) -> None:
    with remote_sync.acquire_run(place, quiet) as driver:
        with (
            pytest.raises(UserError, match=re.escape(f"already running ({driver})")),
            remote_sync.acquire_run(place, quiet),
        ):
            pass
        assert Lease(store, "sweep").holder() == driver


def test_who_looks_while_a_driver_begins_replaces_none_of_its_records(
    place: StudyPaths, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, copy = place.optuna_live(), place.optuna_copy()
    with (
        remote_sync.acquire_run(place, quiet) as driver,
        remote_sync.database_kept(place, driver, quiet),
    ):
        write(live, 1)
    download, looks, goes_on = RemoteFolder.download, threading.Event(), threading.Event()

    def slow(self: RemoteFolder) -> None:
        if threading.current_thread().name != "status":
            return download(self)
        old = copy.read_bytes()
        looks.set()
        goes_on.wait(2)  # a driver that begins now may have copied its database out by then
        copy.write_bytes(old)

    monkeypatch.setattr(RemoteFolder, "download", slow)
    status = threading.Thread(target=remote_sync.refresh, args=(place,), name="status")
    status.start()
    looks.wait()
    with (
        remote_sync.acquire_run(place, quiet) as driver,
        remote_sync.database_kept(place, driver, quiet),
    ):
        write(live, 2)
        database_backup.backup(live, copy)
        goes_on.set()
        status.join()
        assert read(live) == [1, 2]
    assert read(copy) == [1, 2]
