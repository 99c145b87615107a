"""Who drives is known on every machine, by signs of life and not by clocks."""

from __future__ import annotations

import threading
import time

import pytest

from sweeps.storage import lease
from sweeps.storage.lease import Leases
from sweeps.storage.object_store import ObjectStore
from sweeps.storage.run_lock import Driver

DRIVER = Driver("ab", "head", 1, "me", "2026-01-02 03:04:05")


@pytest.fixture
def records(store: ObjectStore) -> Leases:
    return Leases(store, "sweep")


def test_a_driver_is_known_until_it_ends(records: Leases) -> None:
    assert records.living() is None
    assert records.drivers() == []
    records.put(DRIVER)
    assert records.living() == DRIVER
    assert records.asked_to_stop() == []
    records.request_stop("ab")
    assert records.asked_to_stop() == ["ab"]
    records.end("ab")
    assert records.living() is None
    assert records.drivers() == [] == records.asked_to_stop()


def test_who_looks_takes_an_old_record_for_a_dead_one(
    records: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.put(DRIVER)
    monkeypatch.setattr(lease, "CLOCKS_SECONDS", 0.0)
    time.sleep(1.1)  # the store's clock has whole seconds
    assert records.living() is None
    assert records.drivers() == ["ab"]


def test_a_record_that_nobody_renews_is_outlived(
    records: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.5)
    records.put(DRIVER)
    said: list[str] = []
    assert records.outlived(said.append) is None
    assert records.drivers() == []
    assert len(said) == 1


def test_a_driver_that_gives_a_sign_is_not_outlived(
    records: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 20.0)
    records.put(DRIVER)
    over = threading.Event()

    def live() -> None:
        while not over.wait(1.1):
            records.put(DRIVER)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        began = time.monotonic()
        assert records.outlived(lambda text: None) == DRIVER
        assert time.monotonic() - began < 10
    finally:
        over.set()
        thread.join()
    assert records.drivers() == ["ab"]
