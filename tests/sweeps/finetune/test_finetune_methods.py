"""What the methods of a run train: held masks, frozen halves, rescaled drops, and their shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sweeps.finetune.loop import finetune
from sweeps.finetune.reporter import RunResult
from tests.sweeps.finetune.tiny import (
    Killed,
    MemoryReporter,
    assert_equal,
    config,
    parameters,
)

SHIRA = {"name": "shira", "mask_ratio": 0.75}


def run(world: Path, folder: Path, method: dict[str, Any], **changes: Any) -> RunResult:
    return finetune(config(world, method=method, **changes), folder, MemoryReporter())


def moved(world: Path, result: RunResult) -> dict[str, torch.Tensor]:
    before, after = parameters(world / "model"), parameters(result.model_folder)
    return {name: before[name] != after[name] for name in before}


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_shira_trains_the_same_weights_throughout(
    world: Path, tmp_path: Path, decay: float
) -> None:
    often = {"weight_decay": decay, "checkpoint_updates": 1}
    result = run(world, tmp_path / "run", SHIRA, **often)
    shares = {name: each.float().mean().item() for name, each in moved(world, result).items()}
    assert max(shares.values()) <= 0.25 + 1e-9  # of every tensor, whatever the number of updates
    assert sum(shares.values()) / len(shares) > 0.2
    with pytest.raises(Killed):
        settings = config(world, method=SHIRA, **often)
        finetune(settings, tmp_path / "killed", MemoryReporter(die_at_step=4))
    resumed = run(world, tmp_path / "killed", SHIRA, **often)
    assert_equal(parameters(resumed.model_folder), parameters(result.model_folder))


def test_weight_decay_does_not_move_what_hft_freezes(world: Path, tmp_path: Path) -> None:
    frozen = [
        {name for name, each in moved(world, result).items() if not each.any()}
        for result in (
            run(world, tmp_path / f"{decay}", {"name": "hft"}, weight_decay=decay)
            for decay in (0.0, 0.1)
        )
    ]
    assert frozen[0] == frozen[1] != set()


def test_dare_rescales_the_changes_that_it_keeps(world: Path, tmp_path: Path) -> None:
    parent = run(world, tmp_path / "sft", {"name": "sft"})
    drop = {"tuned": parent.model_folder, "rule": "random", "rate": 0.75}
    plain, dare = (
        parameters(
            run(
                world, tmp_path / f"{rescale}", {"name": "drop", "drop": drop | rescale}
            ).model_folder
        )
        for rescale in ({}, {"rescale": True})
    )
    base = parameters(world / "model")
    for name, value in dare.items():
        naive = base[name] + (plain[name] - base[name]) / 0.25
        assert torch.allclose(value, naive, atol=1e-6)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "sft"},
        {"name": "hft"},
        {"name": "lora"},
        {"name": "gmt", "mask_ratio": 0.4},
        {"name": "shira", "mask_ratio": 0.4},
    ],
    ids=lambda method: str(method["name"]),
)
def test_the_trained_share_is_that_of_one_update(
    world: Path, tmp_path: Path, method: dict[str, Any]
) -> None:
    one = {"examples": 8, "warmup_ratio": 0.0, "learning_rate": 0.1}
    result = run(world, tmp_path / "run", method, **one)
    changed = torch.cat([each.flatten() for each in moved(world, result).values()])
    share = result.metrics["cost/trained_share"]
    if method["name"] == "lora":  # its few matrices change whole weights
        assert share == pytest.approx(15872 / (15872 + changed.numel()))
    else:  # of unused tokens, the gradient is zero
        assert changed.float().mean().item() == pytest.approx(share, abs=0.12)
    assert result.metrics["cost/peak_memory_gib"] > 0
