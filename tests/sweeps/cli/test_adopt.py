"""What `run --adopt` lets stand in one study, and who decides it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sweeps.config.load import load_config
from sweeps.config.study_identity import DEFINITION
from sweeps.config.sweep_config import SweepConfig, resolve_paths
from sweeps.execution import sweep
from sweeps.execution.preflight import ADOPTED
from sweeps.storage.errors import UserError
from sweeps.tracking.tracker import MemoryTracker
from tests.sweeps.another_driver import another_driver
from tests.sweeps.played import FINISHED, play


def changed(*overrides: str) -> SweepConfig:
    return resolve_paths(load_config("sweep.yaml", overrides))


def recorded() -> dict[str, Any]:
    return sweep.open_study(changed(), "sums").user_attrs


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("space.accumulation_interval=[1, 2, 4]", "space.accumulation_interval"),
        ("space.mask_ratio=[0, 0.2]", "space.mask_ratio"),
        ("search.objectives=[score, seconds]", "search.objectives"),
    ],
)
def test_what_optuna_cannot_hold_in_one_study_is_refused(
    sweep_files: Path, override: str, named: str
) -> None:
    play(FINISHED)
    with pytest.raises(UserError, match=rf"cannot hold trials of both definitions: {named} \("):
        sweep.check(changed(override), MemoryTracker(), adopt=True)


def test_a_list_that_only_some_methods_have_is_refused_whatever_is_drawn(
    sweep_files: Path, tree: dict[str, Any]
) -> None:
    space = tree["space"] | {"method": ["gmt", "sft"], "mask_ratio": [0.2, 0.4]}
    search = tree["search"] | {"start": [{"method": "gmt"}]}
    (sweep_files / "sweep.yaml").write_text(json.dumps(tree | {"space": space, "search": search}))
    play(FINISHED)
    for _ in range(10):
        with pytest.raises(UserError, match=r"both definitions: space.mask_ratio \("):
            sweep.check(changed("space.mask_ratio=[0.2]"), MemoryTracker(), adopt=True)


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
