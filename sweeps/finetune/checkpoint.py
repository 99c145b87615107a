"""Checkpoints in the run's folder: enough to go on bit for bit, the latest k of them.

Data order and random states are functions of seed and step, so the step stands for them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sweeps.finetune.config import FinetuneConfig
from sweeps.finetune.group import Group
from sweeps.finetune.identity import digest, run_identity
from sweeps.finetune.reporter import Check

_STATE, _SHARDS = "state.pt", "shards"
_SHARDED = ("model", "optimizer")


@dataclass(frozen=True)
class Checkpoint:
    """The state after `step` updates, the latest check (if any) and the seconds spent."""

    step: int
    check: Check | None
    model: dict[str, Any]
    optimizer: dict[str, Any]
    masker: dict[str, Any]
    train_seconds: float
    eval_seconds: float


def run_fingerprint(config: FinetuneConfig, workers: int) -> str:
    """A digest of everything that decides the result of a run."""
    batch = config.effective_batch(workers)
    return digest({"run": run_identity(config), "effective_batch": batch}, 64)


def save(
    folder: Path,
    fingerprint: str,
    checkpoint: Checkpoint,
    keep: int = 1,
    *,
    group: Group | None = None,
) -> None:
    """Add a checkpoint and drop all but the `keep` latest; a kill at any moment leaves one whole.

    A folder of its own for each: it gets its name once all of it is on the disk. With `group`,
    called on every rank, model and optimizer are this rank's shards, and each rank writes its
    own by torch.distributed.checkpoint; without, one rank calls it and writes all.
    """
    leads = group is None or group.leads
    place = _folders(folder) / f"step-{checkpoint.step:010d}"
    partial = place.with_suffix(".partial")
    if leads:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    check = None if checkpoint.check is None else vars(checkpoint.check)
    state = {**vars(checkpoint), "check": check, "fingerprint": fingerprint}
    if group is not None:
        group.wait()
        shards = {name: state.pop(name) for name in _SHARDED}
        _distributed().save(shards, checkpoint_id=partial / _SHARDS)
    if leads:
        _write(state, partial / _STATE)
        shutil.rmtree(place, ignore_errors=True)  # of the same step, saved before a kill
        partial.rename(place)
        for old in saved(folder)[:-keep]:
            shutil.rmtree(old)
    if group is not None:
        group.wait()


def load(
    folder: Path, fingerprint: str, shards: Callable[[], dict[str, Any]] | None = None
) -> Checkpoint | None:
    """The latest checkpoint of `folder`, or None; ValueError when it is another run's.

    `shards`, where the model is sharded, gives {"model", "optimizer"} of this rank to read into.
    """
    places = saved(folder)
    if not places:
        return None
    state = torch.load(places[-1] / _STATE, map_location="cpu", weights_only=True)
    if state.pop("fingerprint") != fingerprint:
        raise ValueError(
            f"{folder} holds the checkpoint of a run with another config: choose another folder"
        )
    if shards is not None:
        parts = shards()
        _distributed().load(parts, checkpoint_id=places[-1] / _SHARDS)
        state |= parts
    check = state.pop("check")
    return Checkpoint(**state, check=None if check is None else Check(**check))


def _distributed() -> Any:
    """torch.distributed.checkpoint: half a second of import that only sharded runs pay."""
    from torch.distributed import checkpoint

    return checkpoint


def _write(state: dict[str, Any], path: Path) -> None:
    with path.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())


def saved(folder: Path) -> list[Path]:
    """The whole checkpoints of `folder`, the oldest first."""
    return sorted(place for place in _folders(folder).glob("step-*") if not place.suffix)


def discard(folder: Path) -> None:
    """Remove the checkpoints of a run that will not go on."""
    shutil.rmtree(_folders(folder), ignore_errors=True)


def _folders(folder: Path) -> Path:
    return folder / "checkpoint"
