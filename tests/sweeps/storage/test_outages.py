"""A call is retried until the store responds, and repeated work outlasts its errors."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from sweeps.storage import outages
from sweeps.storage.object_store import StorageError, SupersededError
from sweeps.storage.outages import repeated, retry_storage


class Failing:
    """Raises these errors in turn, then does nothing; sets ``over`` when all were raised."""

    def __init__(self, *errors: Exception | None) -> None:
        self._errors, self.over, self.calls = list(errors), threading.Event(), 0

    def __call__(self) -> str:
        self.calls += 1
        error = self._errors.pop(0) if self._errors else None
        if not self._errors:
            self.over.set()
        if error is not None:
            raise error
        return "done"


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between calls, which take no time."""
    slept: list[float] = []
    monkeypatch.setattr(outages.time, "sleep", slept.append)
    return slept


def test_a_call_is_retried_with_growing_pauses(pauses: list[float]) -> None:
    ask = Failing(*[StorageError("no response")] * 7)
    assert retry_storage(ask) == "done"
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


@pytest.mark.parametrize("error", [StorageError("no response"), SupersededError("another runs")])
def test_the_last_error_is_raised(error: StorageError, pauses: list[float]) -> None:
    with pytest.raises(type(error), match=str(error)):
        retry_storage(Failing(error, error), 0.5)
    assert pauses == []


def test_another_error_is_not_retried() -> None:
    with pytest.raises(ZeroDivisionError):
        retry_storage(Failing(ZeroDivisionError()))


def run(work: Failing, complain: Callable[[Exception], object]) -> None:
    with repeated(work, 0.01, complain):
        assert work.over.wait(20)


def test_an_outage_is_said_once_and_outlasted() -> None:
    said: list[str] = []
    first, second = StorageError("first"), OSError(28, "second")
    run(Failing(first, first, None, second, second, None), lambda error: said.append(str(error)))
    assert said == ["first", "[Errno 28] second"]


def test_work_ends_once_another_process_has_taken_over() -> None:
    said: list[Exception] = []
    work = Failing(SupersededError("another runs"))
    with repeated(work, 0.01, said.append):
        assert work.over.wait(20)
        threading.Event().wait(0.1)
    assert work.calls == 1
    assert said == []
