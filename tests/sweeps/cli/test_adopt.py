"""What `run --adopt` lets stand in one study, and who decides it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeps.config.load import load_config
from sweeps.config.study_identity import DEFINITION
from sweeps.config.sweep_config import SweepConfig, resolve_paths
from sweeps.execution import sweep
from sweeps.execution.preflight import ADOPTED
from sweeps.storage.errors import UserError
from tests.sweeps.another_driver import another_driver
from tests.sweeps.memory_tracker import MemoryTracker
from tests.sweeps.played import FINISHED, play


def changed(*overrides: str) -> SweepConfig:
    return resolve_paths(load_config("sweep.yaml", overrides))


def recorded() -> dict[str, Any]:
    return sweep.open_study(changed(), "sums").user_attrs


def test_what_optuna_cannot_hold_in_one_study_is_refused(sweep_files: Path) -> None:
    play(FINISHED)
    named = r"cannot hold trials of both definitions: search.objectives \("
    with pytest.raises(UserError, match=named):
        sweep.check(changed("search.objectives=[score, seconds]"), MemoryTracker(), adopt=True)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("seed=1", "seed: was 0, now 1"),
        ("training.examples=32", "training.examples: was 64, now 32"),
        ("search.scheduler.name=asha", "search.scheduler"),
        ("domains.sums.benchmarks.0.limit=2", "domain.benchmarks"),
    ],
)
def test_what_gives_scores_another_meaning_is_refused(
    sweep_files: Path, override: str, named: str
) -> None:
    play(FINISHED)
    with pytest.raises(UserError, match="a different definition") as raised:
        sweep.check(changed(override, "space.mask_ratio=[0, 0.2]"), MemoryTracker())
    assert named in str(raised.value)
    assert "mask_ratio" not in str(raised.value)


@pytest.mark.parametrize(
    "override",
    [
        "space.accumulation_interval=[1, 2, 4]",
        "space.mask_ratio=[0, 0.2]",
        "space.weight_decay=[0, 0.1]",
        "search.constraints=[score >= 0.2]",
    ],
)
def test_space_and_constraints_may_change(sweep_files: Path, override: str) -> None:
    play(FINISHED)
    sweep.check(changed(override), MemoryTracker())


def test_only_who_drives_adopts(sweep_files: Path) -> None:
    play(FINISHED)
    before, wider = recorded(), changed("space.learning_rate.high=0.1", "evaluation.checks=2")
    refused = pytest.raises(UserError, match="is already running")
    with another_driver(sweep_files / "runs" / "small"), refused:
        sweep.run(wider, tracker=MemoryTracker(), adopt=True)
    assert recorded() == before
    adopted = sweep.open_study(wider, "sums", adopt=True).user_attrs
    assert adopted[ADOPTED] == [before[DEFINITION]]
    assert adopted[DEFINITION]["evaluation"] == {"checks": 2}
    assert sweep.open_study(wider, "sums", adopt=True).user_attrs == adopted  # once
