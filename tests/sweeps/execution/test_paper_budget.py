"""The studies of a paper share one budget, in a call and over calls."""

from __future__ import annotations

import functools
import io
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from sweeps.config.budget import StopCondition, UsageTracker
from sweeps.config.load import parse_config
from sweeps.config.sweep_config import SweepConfig
from sweeps.execution import paper, sweep, tuner
from sweeps.execution.progress import LineDisplay
from sweeps.execution.trial_batch import TrialBatch
from tests.sweeps.memory_tracker import MemoryTracker
from tests.sweeps.played import FINISHED, Groups

Tree = dict[str, Any]
STUDY = {
    "paper": ["search", "sensitivity", "methods"],
    "margin": 0.02,
    "nuisance": {"accumulation_interval": 1, "learning_rate": 1e-3},
    "ratios": [0.0, 0.5],
    "seeds": 2,
    "fresh_seeds": 2,
}


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the sweeps whose trials ran, batch by batch; each takes an hour of a GPU."""
    later, ran = [0.0], list[str]()

    def run_tuner(
        config: SweepConfig, given: list[TrialBatch], halt: StopCondition, *rest: object
    ) -> None:
        (one,) = given
        halt.usage.began("trial")
        for number in range(one.trials):
            one.search.suggest(str(number))
            one.search.on_trial_complete(str(number), FINISHED)
        later[0] += 3600
        halt.usage.ended("trial")
        ran.append(config.name)

    clocked = functools.partial(UsageTracker, clock=lambda: time.monotonic() + later[0])
    monkeypatch.setattr(sweep, "UsageTracker", clocked)
    monkeypatch.setattr(tuner, "run_tuner", run_tuner)
    monkeypatch.setattr(paper, "worker_session", lambda *given: nullcontext(Groups()))
    return ran


def run(tree: Tree, **budget: float) -> str:
    """Run the paper under a budget; returns how it was stopped."""
    resources = {"workers": 1, "gpus_per_worker": 1}
    changes = {"study": STUDY, "budget": budget, "resources": resources}
    shown = LineDisplay(io.StringIO())
    return paper.run(parse_config(tree | changes), shown, MemoryTracker()).stopped


def test_wall_time_is_of_the_whole_call(sweep_files: Path, tree: Tree, batches: list[str]) -> None:
    assert "wall_hours" in run(tree, wall_hours=1.5)
    assert batches == ["small-search", "small-sensitivity"]
    assert not (sweep_files / "runs" / "small-methods").exists()
    assert (sweep_files / "runs" / "small" / "paper" / "report.html").is_file()


def test_gpu_hours_are_of_all_studies_and_calls(
    sweep_files: Path, tree: Tree, batches: list[str]
) -> None:
    assert "gpu_hours 2 of 1.5" in run(tree, gpu_hours=1.5)
    assert batches == ["small-search", "small-sensitivity"]
    assert "gpu_hours 2 of 2" in run(tree, gpu_hours=2)
    assert batches == ["small-search", "small-sensitivity"]  # nothing is left to spend
    assert "gpu_hours 3" in run(tree, gpu_hours=2.5)
    assert batches == ["small-search", "small-sensitivity", "small-sensitivity"]
