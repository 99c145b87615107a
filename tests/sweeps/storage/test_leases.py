"""One driver has the lease of a sweep, known by signs of life and not by clocks."""

from __future__ import annotations

import threading
import time

import pytest

from sweeps.storage import lease
from sweeps.storage.errors import UserError
from sweeps.storage.lease import Lease
from sweeps.storage.object_store import ObjectStore, SupersededError
from sweeps.storage.run_lock import Driver
from tests.sweeps.storage.machines import quiet

DRIVER = Driver("ab", "head", 1, "me", "2026-01-02 03:04:05")
OTHER = Driver("cd", "other", 2, "me", "2026-01-02 03:04:06")


@pytest.fixture
def held(store: ObjectStore) -> Lease:
    return Lease(store, "sweep")


def test_a_driver_is_known_until_it_ends(held: Lease) -> None:
    assert held.living() is None is held.holder()
    held.acquire(DRIVER, "", quiet)
    assert held.living() == DRIVER == held.holder()
    assert not held.renew(DRIVER)
    held.request_stop(DRIVER)
    assert held.renew(DRIVER)
    held.release(DRIVER)
    assert held.living() is None is held.holder()
    held.acquire(DRIVER, "", quiet)
    assert not held.renew(DRIVER)


def test_an_old_record_is_a_dead_driver_to_who_looks(
    held: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.acquire(DRIVER, "", quiet)
    monkeypatch.setattr(lease, "CLOCKS_SECONDS", 0.0)
    time.sleep(1.1)  # the store's clock has whole seconds
    assert held.living() is None
    assert held.holder() == DRIVER


def test_a_lease_that_nobody_renews_expires(held: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.5)
    held.acquire(DRIVER, "", quiet)
    said: list[str] = []
    held.acquire(OTHER, "", said.append)
    assert held.holder() == OTHER
    assert len(said) == 1
    with pytest.raises(SupersededError):
        held.renew(DRIVER)
    assert held.holder() == OTHER


def test_the_last_of_two_that_begin_at_once_has_the_lease(
    held: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Lease._put

    def both(self: Lease, driver: Driver) -> None:
        put(self, driver)
        put(self, OTHER)

    monkeypatch.setattr(Lease, "_put", both)
    with pytest.raises(UserError, match=r"already running \(process 2 of me on other"):
        held.acquire(DRIVER, "", quiet)
    assert held.holder() == OTHER


def test_a_lease_that_is_renewed_is_respected(
    held: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 20.0)
    held.acquire(DRIVER, "", quiet)
    over = threading.Event()

    def live() -> None:
        while not over.wait(1.1):
            held.renew(DRIVER)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        began = time.monotonic()
        with pytest.raises(UserError, match=r"already running \(process 1 of me on head"):
            held.acquire(OTHER, "", quiet)
        assert time.monotonic() - began < 10
    finally:
        over.set()
        thread.join()
    assert held.holder() == DRIVER
