"""What the tracker is told of a group's job, and what the ledger is."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweeps.config.budget import BudgetConfig, StopCondition, UsageFiles, UsageTracker
from sweeps.execution.progress import LineDisplay, Tally
from sweeps.execution.study_observer import StudyObserver, trial_info

POINT = {"mask_ratio": 0.2, "accumulation_interval": 1, "learning_rate": 1e-3}


def test_a_trial_of_a_search_names_the_method_of_the_sweep() -> None:
    job = {"key": "000-a", "number": 0, "point": POINT, "method": "random"}
    told = trial_info(job, 7)
    assert dict(told.parameters) == {**POINT, "method": "random"}
    assert told.seed == 7


def test_a_trial_of_a_design_has_its_own_method_and_seed() -> None:
    point = {**POINT, "method": "sft", "seed": 3}
    told = trial_info({"key": "001-b", "number": 1, "point": point, "method": "sft"}, 7)
    assert (told.parameters["method"], told.seed) == ("sft", 3)
    assert "seed" not in told.parameters


def test_domains_side_by_side_with_equal_trials_spend_as_much_as_others(tmp_path: Path) -> None:
    """Two domains may differ in nothing that a trial's key tells: in their search alone."""
    now = [0.0]
    ledger = UsageTracker(BudgetConfig(), 1.0, UsageFiles(tmp_path, "me"), lambda: now[0])
    nobody: Any = SimpleNamespace(told=lambda trial_id: None, begin=lambda *told: None)
    job = {"key": "000-a", "number": 0, "point": POINT, "method": "gmt", "folder": str(tmp_path)}
    trials: list[Any] = [SimpleNamespace(trial_id=name, config=job) for name in ("a", "b")]
    observers = [
        StudyObserver(
            nobody,
            Tally(domain, 1, 0, 2),
            LineDisplay(io.StringIO()),
            nobody,
            StopCondition(ledger, 0.5),
            7,
            lambda: None,
        )
        for domain in ("math", "code")
    ]
    for observer, trial in zip(observers, trials, strict=True):
        observer.began(trial)
    now[0] = 3600.0
    for observer, trial in zip(observers, trials, strict=True):
        observer.ended(trial, {}, error=False)
    assert ledger.gpu_hours() == pytest.approx(2.0)
