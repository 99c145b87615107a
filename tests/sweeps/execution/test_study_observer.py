"""What the tracker is told of a group's job, and what the ledger is."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweeps.config.budget import BudgetConfig, StopCondition, UsageTracker
from sweeps.execution.progress import LineDisplay
from sweeps.execution.study_observer import StudyObserver, trial_info
from sweeps.execution.study_tally import Tally
from tests.sweeps.jobs import POINT, trial_job


def test_a_trial_of_a_search_names_the_method_of_the_sweep() -> None:
    told = trial_info("000-a", 0, "random", POINT, 7)
    assert dict(told.parameters) == {**POINT, "method": "random"}
    assert told.seed == 7
    assert told.name.startswith("random, mask 0.") and told.name.endswith(", seed 7")


def test_a_trial_of_a_design_has_its_own_method_and_seed() -> None:
    point = {**POINT, "method": "sft", "seed": 3}
    told = trial_info("001-b", 1, "sft", point, 7)
    assert (told.parameters["method"], told.seed) == ("sft", 3)
    assert "seed" not in told.parameters


def test_domains_side_by_side_with_equal_trials_spend_as_much_as_others(tmp_path: Path) -> None:
    """Two domains may differ in nothing that a trial's key tells: in their search alone."""
    now = [0.0]
    ledger = UsageTracker(BudgetConfig(), 1.0, clock=lambda: now[0])
    nobody: Any = SimpleNamespace(told=lambda trial_id: None, begin=lambda *told: None)
    config = {"job": trial_job(folder=str(tmp_path))}
    trials: list[Any] = [SimpleNamespace(trial_id=name, config=config) for name in ("a", "b")]
    observers = [
        StudyObserver(
            nobody,
            Tally(domain, 1, 0),
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


def test_a_lost_attempt_is_shown_and_logged_with_its_cause(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nobody: Any = SimpleNamespace(begin=lambda *told: None)
    said = io.StringIO()
    usage = UsageTracker(BudgetConfig(), 1.0)
    observer = StudyObserver(
        nobody,
        Tally("sums", 1, 0),
        LineDisplay(said),
        nobody,
        StopCondition(usage, 0.5),
        7,
        lambda: None,
    )
    config = {"job": trial_job(3, folder=str(tmp_path))}
    trial: Any = SimpleNamespace(trial_id="a", config=config)
    observer.began(trial)
    with caplog.at_level("WARNING", logger="sweeps.driver"):
        observer.checked(trial, {"step": 1, "retries": ("worker process 7 on h is gone: killed",)})
        observer.checked(trial, {"step": 2})
    line = "sums trial 3: attempt lost, trying again: worker process 7 on h is gone: killed"
    assert said.getvalue().splitlines() == [line, "training"]
    assert [record.getMessage() for record in caplog.records] == [line]
