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


def test_what_the_first_ends_with_leaves_what_the_second_has_begun(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "run", state(1))
    begun = checkpoint.partial_folder(tmp_path, 2)
    checkpoint.begin(begun)
    checkpoint.discard(tmp_path)
    checkpoint.finish(begun, "run", state(2), 1)
    found = checkpoint.load(tmp_path, "run")
    assert found is not None and found.step == 2
    checkpoint.discard(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_both_write_parts_of_the_same_step(tmp_path: Path) -> None:
    """As ranks do where the model is sharded: who ends first leaves the other's parts alone."""
    begun = [checkpoint.partial_folder(tmp_path, 7) for _ in range(2)]
    for writer, place in enumerate(begun):
        checkpoint.begin(place)
        (place / "part").write_text(f"of writer {writer}")
    checkpoint.finish(begun[0], "run", state(7), 1)
    assert (checkpoint.saved(tmp_path)[-1] / "part").read_text() == "of writer 0"
    assert (begun[1] / "part").read_text() == "of writer 1"
    checkpoint.finish(begun[1], "run", state(7), 1)
    assert (checkpoint.saved(tmp_path)[-1] / "part").read_text() == "of writer 1"
    assert list(tmp_path.rglob("*.partial")) == []


def test_what_a_killed_process_began_is_removed(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "run", state(1))
    checkpoint.begin(checkpoint.partial_folder(tmp_path, 2))
    (tmp_path / "model.1234.partial").mkdir()
    found = checkpoint.load(tmp_path, "run")
    assert found is not None and found.step == 1
    assert list(tmp_path.rglob("*.partial")) == []
