"""Checkpoints in the run's folder: enough to go on bit for bit, replaced atomically.

Data order and random states are functions of seed and step, so the step stands for them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sweeps.finetune.config import FinetuneConfig
from sweeps.finetune.reporter import Check


@dataclass(frozen=True)
class Checkpoint:
    """The state after the updates and the check of `check.step`, and the seconds spent."""

    check: Check
    model: dict[str, Any]
    optimizer: dict[str, Any]
    masker: dict[str, Any]
    train_seconds: float
    eval_seconds: float


def run_fingerprint(config: FinetuneConfig, workers: int) -> str:
    """A digest of everything that decides the result of a run."""
    text = f"{config.model_dump_json()} {config.effective_batch(workers)}"
    return hashlib.sha256(text.encode()).hexdigest()


def save(folder: Path, fingerprint: str, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint of `folder`; a kill at any moment leaves the old or the new one."""
    place = _path(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_suffix(".partial")
    state = {**vars(checkpoint), "check": vars(checkpoint.check), "fingerprint": fingerprint}
    with partial.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(place)


def load(folder: Path, fingerprint: str) -> Checkpoint | None:
    """The checkpoint of `folder`, or None; ValueError when it is another run's."""
    place = _path(folder)
    if not place.is_file():
        return None
    state = torch.load(place, map_location="cpu", weights_only=True)
    if state.pop("fingerprint") != fingerprint:
        raise ValueError(
            f"{folder} holds the checkpoint of a run with another config: choose another folder"
        )
    return Checkpoint(**{**state, "check": Check(**state["check"])})


def discard(folder: Path) -> None:
    """Remove the checkpoint of a run that will not go on."""
    shutil.rmtree(_path(folder).parent, ignore_errors=True)


def _path(folder: Path) -> Path:
    return folder / "checkpoint" / "state.pt"
