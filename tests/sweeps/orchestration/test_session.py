"""One study's session without Ray: how it ends, and what is said about it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from sweeps import session
from sweeps.config import resolve_paths
from sweeps.display.progress import LineDisplay
from sweeps.errors import UserError
from sweeps.folder.drivers import driving
from sweeps.folder.load import load_config
from sweeps.session import DomainSession
from sweeps.settings.budget import BudgetConfig, Ledger
from sweeps.settings.halt import Halt
from sweeps.study import open_study
from sweeps.tracking.pump import TrackerPump
from sweeps.tracking.tracker import MemoryTracker


def ending(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a session of which ``error`` is the end says; its error is the one that comes out."""
    config = resolve_paths(load_config("sweep.yaml"))
    study, said = open_study(config, "sums"), io.StringIO()

    def fails(self: DomainSession, pump: TrackerPump) -> None:
        raise error

    monkeypatch.setattr(DomainSession, "_run_missing", fails)
    halt = Halt(Ledger(BudgetConfig(), gpus=0.0), 0.5)
    groups: Any = None
    with driving(Path.cwd() / "runs" / "small") as driver:
        one = DomainSession(
            config, "sums", study, MemoryTracker(), LineDisplay(said), groups, driver, halt
        )
        with pytest.raises(type(error)) as raised:
            one.run()
    assert raised.value is error
    return said.getvalue()


def test_trouble_with_marking_does_not_hide_the_interrupt(
    sweep_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def locked(*given: object) -> list[object]:
        calls.append(given)
        if len(calls) == 1:
            return []  # what an earlier session left
        raise RuntimeError("database is locked")

    monkeypatch.setattr(session, "mark_interrupted", locked)
    said = ending(KeyboardInterrupt(), monkeypatch)
    assert "still on record as running (database is locked)" in said


@pytest.mark.parametrize(
    ("error", "patience"),
    [
        (KeyboardInterrupt(), session.TRACKER_HASTE_SECONDS),
        (UserError("too many failed"), session.TRACKER_PATIENCE_SECONDS),
    ],
)
def test_only_who_asked_for_the_end_is_not_kept_waiting_for_the_tracker(
    sweep_files: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    patience: float,
) -> None:
    given: list[float] = []

    def slow(pump: TrackerPump, timeout: float) -> bool:
        given.append(timeout)
        return False

    monkeypatch.setattr(TrackerPump, "close", slow)
    assert "not everything could be sent" in ending(error, monkeypatch)
    assert given == [patience]
