"""A run that starts from another run's checkpoint: bit for bit that run, with other settings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeps.finetune.checkpoint import STATE, run_fingerprint, saved
from sweeps.finetune.loop import finetune
from tests.sweeps.finetune.tiny import Killed, MemoryReporter, assert_equal, config, parameters


def stopped(world: Path, folder: Path, **changes: Any) -> Path:
    """The checkpoint that a run leaves which is stopped at its second of three checks."""
    result = finetune(config(world, **changes), folder, MemoryReporter(stop_at=4))
    assert (result.state, result.step) == ("stopped", 4)
    (place,) = saved(folder)
    return place


@pytest.mark.parametrize("method", ["gmt", "random", "shira"])
def test_without_a_change_it_is_the_resumed_run(world: Path, tmp_path: Path, method: str) -> None:
    changes: dict[str, Any] = {"method": {"name": method, "mask_ratio": 0.4}, "weight_decay": 0.1}
    place = stopped(world, tmp_path / "parent", **changes)
    reporter = MemoryReporter()
    forked = config(world, start_from=str(place), **changes)
    fork = finetune(forked, tmp_path / "fork", reporter)
    resumed = finetune(config(world, **changes), tmp_path / "parent", MemoryReporter())
    assert_equal(parameters(fork.model_folder), parameters(resumed.model_folder))
    assert fork.score == resumed.score
    assert sorted(reporter.steps) == [5, 6]
    assert [check.step for check in reporter.checks] == [4, 6]


@pytest.mark.parametrize(
    "changed",
    [
        {"learning_rate": 0.003, "schedule": "constant"},
        {"weight_decay": 0.5, "betas": [0.5, 0.9]},
        {"clip_norm": None},
        {"examples": 80},
        {"method": {"name": "gmt", "mask_ratio": 0.8}},
        {"method": {"name": "sft"}},
    ],
)
def test_a_change_is_what_a_resumed_run_would_do_with_it(
    world: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    """By hand: the checkpoint, made the changed run's own, and its settings set in the state."""
    place = stopped(world, tmp_path / "parent")
    settings = config(world, **changed)
    own = tmp_path / "by_hand" / "checkpoint" / place.name
    shutil.copytree(place, own)
    state = torch.load(own / STATE, weights_only=True)
    state["fingerprint"] = run_fingerprint(settings, 1)
    state["masker"] = {"update": 4}
    for group in state["optimizer"]["param_groups"]:
        group |= {"weight_decay": settings.weight_decay, "betas": settings.betas}
    torch.save(state, own / STATE)
    by_hand = finetune(settings, tmp_path / "by_hand", MemoryReporter())
    forked = config(world, start_from=str(place), **changed)
    fork = finetune(forked, tmp_path / "fork", MemoryReporter())
    assert_equal(parameters(fork.model_folder), parameters(by_hand.model_folder))
    assert (fork.score, fork.steps) == (by_hand.score, by_hand.steps)
    whole = finetune(config(world), tmp_path / "whole", MemoryReporter())
    assert fork.score != whole.score


def test_a_fork_that_was_stopped_resumes_from_its_own_checkpoint(
    world: Path, tmp_path: Path
) -> None:
    place = stopped(world, tmp_path / "parent")
    settings = config(world, start_from=str(place), learning_rate=0.003, checkpoint_updates=1)
    whole = finetune(settings, tmp_path / "whole", MemoryReporter())
    with pytest.raises(Killed):
        finetune(settings, tmp_path / "fork", MemoryReporter(die_at_step=6))
    reporter = MemoryReporter()
    resumed = finetune(settings, tmp_path / "fork", reporter)
    assert sorted(reporter.steps) == [6]
    assert_equal(parameters(resumed.model_folder), parameters(whole.model_folder))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"batch": {"mini_batch": 2}}, "effective_batch"),
        ({"optimizer": "adafactor"}, "optimizer"),
        ({"data": {"max_length": 16}}, "data"),
        ({"method": {"name": "lora"}}, "lora"),
    ],
)
def test_what_cannot_change_is_named(
    world: Path, tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    place = stopped(world, tmp_path / "parent")
    if "data" in changed:
        changed = {"data": changed["data"] | {"path": str(world / "train.jsonl")}}
    settings = config(world, start_from=str(place), **changed)
    with pytest.raises(ValueError, match=f"has a different {named}; .* learning_rate, mask_ratio"):
        finetune(settings, tmp_path / "fork", MemoryReporter())


def test_a_checkpoint_that_is_not_there_or_too_late_is_named(world: Path, tmp_path: Path) -> None:
    place = stopped(world, tmp_path / "parent")
    short = config(world, start_from=str(place), examples=32)
    with pytest.raises(ValueError, match=r"follows update 4, .* only 4 updates"):
        finetune(short, tmp_path / "short", MemoryReporter())
    nowhere = config(world, start_from=str(place.parent))
    with pytest.raises(ValueError, match=r"start_from: no checkpoint in .*step-0000000008"):
        finetune(nowhere, tmp_path / "nowhere", MemoryReporter())
    with pytest.raises(ValueError, match="'drop' trains nothing"):
        config(
            world,
            start_from=str(place),
            method={"name": "drop", "drop": {"rate": 0.5, "tuned": "x"}},
        )
