"""A budget that is reached in the middle of a study, and one that its last trial reaches."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from sweeps.config.budget import BudgetConfig, StopCondition, UsageTracker
from sweeps.config.load import parse_config
from sweeps.config.sweep_config import SweepConfig, paths_for, resolve_paths
from sweeps.execution import tuner
from sweeps.execution.domain_result import DomainResult
from sweeps.execution.efficiency_study import MEASURED
from sweeps.execution.progress import LineDisplay
from sweeps.execution.study_session import DomainSession, run_together
from sweeps.execution.sweep import open_study
from sweeps.execution.trial_batch import TrialBatch
from sweeps.storage.run_lock import acquire_run_lock
from tests.sweeps.memory_tracker import MemoryTracker
from tests.sweeps.played import FINISHED, Groups

Tree = dict[str, Any]
NUISANCE = {"accumulation_interval": 1, "learning_rate": 1e-3}
SENSITIVITY = {"kind": "sensitivity", "margin": 0.02, "nuisance": NUISANCE}
SMALL = SENSITIVITY | {"ratios": [0.0, 0.5], "seeds": 2, "fresh_seeds": 2}


def ended_by_budget(
    config: SweepConfig, monkeypatch: pytest.MonkeyPatch, *, batch: int, cut_short: int
) -> tuple[DomainResult, MemoryTracker, bool]:
    """One hour is given, and passes in batch ``batch``, whose last ``cut_short`` trials never end.
    Returns the result, the tracker, and whether test items were scored."""
    now, batches, groups = [0.0], [0], Groups()
    folder, tracker = paths_for(config).folder, MemoryTracker()

    def run_tuner(config: SweepConfig, given: list[TrialBatch], *rest: object) -> None:
        (one,) = given
        for number in range(one.trials):
            one.search.suggest(str(number))
        is_last = batches[0] == batch
        for number in range(one.trials - cut_short * is_last):
            one.search.on_trial_complete(str(number), FINISHED)
        batches[0], now[0] = batches[0] + 1, 3600.0 * is_last

    monkeypatch.setattr(tuner, "run_tuner", run_tuner)
    study, display = open_study(config, "sums"), LineDisplay(io.StringIO())
    with acquire_run_lock(folder):
        ledger = UsageTracker(BudgetConfig(wall_hours=1), 0.0, clock=lambda: now[0])
        halt = StopCondition(ledger, 0.5)
        some: Any = groups
        one = DomainSession(config, "sums", study, tracker, display, some, halt)
        return run_together([one])["sums"], tracker, groups.scored


@pytest.mark.parametrize(
    ("study", "batch", "cut_short", "is_done"),
    [
        ({}, 0, 0, True),
        ({}, 0, 1, False),
        (SMALL, 0, 0, False),  # the fresh seeds are still to come
        (SMALL, 1, 0, True),
        (SMALL, 1, 1, False),
    ],
)
def test_a_study_whose_last_trial_reaches_the_budget_is_complete(
    sweep_files: Path,
    tree: Tree,
    monkeypatch: pytest.MonkeyPatch,
    study: Tree,
    batch: int,
    cut_short: int,
    is_done: bool,
) -> None:
    config = resolve_paths(parse_config(tree | {"study": study}))
    result, tracker, scored = ended_by_budget(
        config, monkeypatch, batch=batch, cut_short=cut_short
    )
    assert scored == is_done
    assert ("wall_hours" in result.stopped) == (not is_done)
    assert tracker.store["small/sums"].state == ("finished" if is_done else "interrupted")
    assert "interrupted" not in {row.state for row in result.rows} or not is_done


@pytest.mark.parametrize("is_measured", [True, False])
def test_an_efficiency_study_is_done_once_it_is_measured(
    sweep_files: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch, is_measured: bool
) -> None:
    study = {"kind": "efficiency", "nuisance": NUISANCE, "mask_ratio": 0.5}
    config = resolve_paths(parse_config(tree | {"study": study}))
    halt = StopCondition(UsageTracker(BudgetConfig(wall_hours=1e-9), 0.0), 0.5)
    opened, tracker = open_study(config, "sums"), MemoryTracker()
    groups: Any = Groups()
    home = paths_for(config).study("sums")
    if is_measured:
        home.mkdir(parents=True)
        (home / MEASURED).write_text('{"methods": {}, "place": "here"}')
    monkeypatch.setattr(DomainSession, "_conclude", lambda one, complete: RESULT)
    with acquire_run_lock(paths_for(config).folder):
        display = LineDisplay(io.StringIO())
        one = DomainSession(config, "sums", opened, tracker, display, groups, halt)
        result = run_together([one])["sums"]
    assert ("wall_hours" in result.stopped) == (not is_measured)


NOTHING: Any = None
RESULT = DomainResult("sums", (), None, NOTHING, NOTHING)
