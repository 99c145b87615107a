"""Several processes compute what one computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from sweeps.finetune.loop import finetune
from tests.sweeps.finetune.tiny import (
    Killed,
    MemoryReporter,
    assert_equal,
    config,
    largest_difference,
    parameters,
)

BATCH = {"hold": "global_batch", "global_batch": 8}


def worker(rank: int, world: str, folder: str) -> None:
    """A killed and a resumed run, and an unbroken one, on rank `rank` of two."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    settings = config(Path(world), batch=BATCH)
    reporter = MemoryReporter()
    result = finetune(settings, Path(folder) / "whole", reporter)
    try:
        finetune(settings, Path(folder) / "killed", MemoryReporter(die_at_step=4))
    except Killed:
        finetune(settings, Path(folder) / "killed", MemoryReporter())
    stop = finetune(settings, Path(folder) / "stop", MemoryReporter(stop_at=2))
    report = {"losses": reporter.losses(), "score": result.score, "stop": stop.state}
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


def test_two_processes_equal_one(world: Path, tmp_path: Path) -> None:
    reporter = MemoryReporter()
    single = finetune(config(world, batch=BATCH), tmp_path / "single", reporter)
    start_processes(worker, (str(world), str(tmp_path)), nprocs=2, start_method="spawn")
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["stop"] == "stopped"
    assert first["losses"] == pytest.approx(reporter.losses(), abs=1e-5)
    assert first["score"] == pytest.approx(single.score, abs=1e-4)
    whole = parameters(tmp_path / "whole" / "model")
    assert largest_difference(whole, parameters(single.model_folder)) < 1e-4
    assert_equal(whole, parameters(tmp_path / "killed" / "model"))
