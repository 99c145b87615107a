"""Who drives is known on every machine, by signs of life and not by clocks."""

from __future__ import annotations

import threading
import time

import pytest

from sweeps.storage import lease
from sweeps.storage.lease import Leases
from sweeps.storage.object_store import ObjectStore


@pytest.fixture
def records(store: ObjectStore) -> Leases:
    return Leases(store, "sweep")


def test_a_driver_is_known_until_it_ends(records: Leases) -> None:
    assert records.living() == [] == records.drivers()
    records.put("ab", '{"pid": 1}')
    assert records.living() == ['{"pid": 1}']
    assert records.asked_to_stop() == []
    records.request_stop("ab")
    assert records.asked_to_stop() == ["ab"]
    records.end("ab")
    assert records.living() == [] == records.drivers() == records.asked_to_stop()


def test_who_looks_takes_an_old_record_for_a_dead_one(
    records: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.put("ab", "{}")
    monkeypatch.setattr(lease, "CLOCKS_SECONDS", 0.0)
    time.sleep(1.1)  # the store's clock has whole seconds
    assert records.living() == []
    assert records.drivers() == ["ab"]


def test_a_record_that_nobody_renews_is_outlived(
    records: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.5)
    records.put("ab", "{}")
    said: list[str] = []
    assert records.outlived(set(), said.append) == []
    assert records.drivers() == []
    assert len(said) == 1


def test_a_driver_that_gives_a_sign_is_not_outlived(
    records: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 20.0)
    records.put("ab", '{"pid": 1}')
    over = threading.Event()

    def live() -> None:
        while not over.wait(1.1):
            records.put("ab", '{"pid": 1}')

    thread = threading.Thread(target=live)
    thread.start()
    try:
        began = time.monotonic()
        assert records.outlived(set(), lambda text: None) == ['{"pid": 1}']
        assert time.monotonic() - began < 10
    finally:
        over.set()
        thread.join()
    assert records.drivers() == ["ab"]


def test_known_and_ended_drivers_are_not_waited_for(records: Leases) -> None:
    records.put("mine", "{}")
    said: list[str] = []
    assert records.outlived({"mine"}, said.append) == []
    assert said == []
    assert records.drivers() == ["mine"]
