"""The efficiency measurement: all workers of a trial, one trainer in memory at a time."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import pytest
import torch.distributed as dist

from sweeps.finetune import speed_comparison
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.speed_comparison import measure_updates
from sweeps.finetune.trainer import Trainer
from tests.sweeps.finetune.processes import run_ranks
from tests.sweeps.finetune.tiny import config

ROUNDS = 3


def runs(world: Path, parallel: str = "ddp") -> dict[str, FinetuneConfig]:
    batch = {"fixed": "global_batch", "global_batch": 8}
    return {
        name: config(
            world, parallel=parallel, batch=batch, method={"name": name, "mask_ratio": ratio}
        )
        for name, ratio in (("sft", 0.0), ("gmt", 0.4))
    }


def measure(world: Path, folder: Path, parallel: str) -> None:
    """On one rank."""
    found = measure_updates(runs(world, parallel), ROUNDS)
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(found))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_workers_measure_the_same_updates_together(
    world: Path, tmp_path: Path, parallel: str
) -> None:
    run_ranks(measure, 2, tmp_path, world, tmp_path, parallel)
    alone = measure_updates(runs(world), ROUNDS)
    assert list(alone) == ["sft", "gmt"]
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for name, one in alone.items():
            assert len(found[name]["seconds"]) == len(one["seconds"]) == ROUNDS
            assert found[name]["examples"] == one["examples"] == 8
            # Each rank pads its own rows.
            assert found[name]["flops"] == pytest.approx(one["flops"], rel=0.2)


def test_one_trainer_is_in_memory_at_a_time(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[weakref.ref[Trainer]]()
    build = speed_comparison._trainer

    def watched(*given: object) -> Trainer:
        gc.collect()
        assert not any(each() for each in made)
        trainer = build(*given)  # type: ignore[arg-type]
        made.append(weakref.ref(trainer))
        return trainer

    monkeypatch.setattr(speed_comparison, "_trainer", watched)
    measure_updates(runs(world), ROUNDS)
    assert len(made) == 4
