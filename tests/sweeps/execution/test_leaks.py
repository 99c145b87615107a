"""A process that runs trial after trial holds as many threads, files and bytes as after a few."""

from __future__ import annotations

import ctypes
import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from sweeps.execution.trial_worker import run_trial
from tests.sweeps.finetune.processes import run_ranks
from tests.sweeps.finetune.tiny import config, save_world
from tests.sweeps.jobs import trial_job


def held() -> dict[str, int]:
    """Threads, open files, and resident memory in KiB."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return {
        "threads": int(status["Threads"]),
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "kib": int(status["VmRSS"].split()[0]),
    }


def trials(world: Path, folder: Path, parallel: str, counts: list[int]) -> None:
    """On one rank: trials one after another, and what the process holds after those counts."""
    memory: dict[str, Any] = {}
    found = {}
    batch = {"fixed": "global_batch", "global_batch": 8}
    for number in range(1, counts[-1] + 1):
        run = config(
            world,
            parallel=parallel,
            batch=batch,
            examples=16,
            checkpoint_updates=1,
            checkpoint_async=True,
            learning_rate=0.001 * number,
            keep="none",
        )
        job = trial_job(number, run=run, folder=str(folder / str(number)))
        Path(job.folder).mkdir(exist_ok=True)
        run_trial(job, lambda _: True, memory)
        if number in counts:
            found[number] = held()
    (folder / f"held.{dist.get_rank()}.json").write_text(json.dumps(found))


@pytest.mark.parametrize(("few", "many"), [(3, 6), pytest.param(10, 100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_the_last_trial_leaves_no_more_than_an_early_one(
    tmp_path: Path, parallel: str, few: int, many: int
) -> None:
    world = save_world(tmp_path)
    run_ranks(trials, 2, tmp_path, world, tmp_path, parallel, [few, many])
    for file in sorted(tmp_path.glob("held.*.json")):
        early, late = json.loads(file.read_text()).values()
        print(parallel, file.name, early, late)
        assert late["threads"] <= early["threads"]
        assert late["files"] <= early["files"]
        assert late["kib"] <= 1.05 * early["kib"]
