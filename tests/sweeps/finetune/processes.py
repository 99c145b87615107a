"""Real processes for the tests: a group of ranks over gloo, on this machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def run_ranks(work: Callable[..., None], size: int, folder: Path, *arguments: Any) -> None:
    """Run `work(*arguments)` on `size` ranks of a new group; `folder` must be its own."""
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    # Imported once, by the server that forks the ranks.
    context.set_forkserver_preload([__name__, "sweeps.finetune.loop", "transformers"])
    ranks = [
        context.Process(target=_rank, args=(rank, size, folder, work, arguments))
        for rank in range(size)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    codes = [process.exitcode for process in ranks]
    assert codes == [0] * size, f"exit codes {codes}; see the output of the ranks"


def _rank(
    rank: int, size: int, folder: Path, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=120),
    )
    work(*arguments)
    dist.destroy_process_group()
