"""Two processes at the same trial: one was taken for lost, and lives on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from sweeps.finetune import checkpoint
from sweeps.finetune.checkpoint import Checkpoint

STEPS = 40


def state(step: int) -> Checkpoint:
    return Checkpoint(step, None, {"weight": torch.full((64, 64), float(step))}, {}, {}, 1.0, 0.5)


def test_both_save_the_same_steps_and_every_one_is_whole(tmp_path: Path) -> None:
    def run(writer: int) -> None:
        for step in range(STEPS):
            checkpoint.save(tmp_path, "run", state(step))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, range(3)))
    found = checkpoint.load(tmp_path, "run")
    assert found is not None
    assert found.model["weight"].unique().tolist() == [float(found.step)]
    assert found.step == STEPS - 1


def test_what_the_first_ends_with_does_not_stop_the_second(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "run", state(1))
    checkpoint.discard(tmp_path)
    checkpoint.save(tmp_path, "run", state(2))
    found = checkpoint.load(tmp_path, "run")
    assert found is not None and found.step == 2


def test_what_a_killed_process_began_is_removed(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "run", state(1))
    checkpoint.begin(checkpoint.partial_folder(tmp_path, 2, ".1234"))
    (tmp_path / "model.1234.partial").mkdir()
    found = checkpoint.load(tmp_path, "run")
    assert found is not None and found.step == 1
    assert list(tmp_path.rglob("*.partial")) == []
