"""Checkpoints in the run's folder: enough to go on bit for bit, the latest k of them.

Data order and random states are functions of seed and step, so the step stands for them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.reporter import Check
from sweeps.finetune.run_identity import OtherRunError, digest, run_identity
from sweeps.storage.atomic_io import atomic_rename_dir, partial_of

if TYPE_CHECKING:
    from sweeps.finetune.process_group import Group

STATE, SHARDS = "state.pt", "shards"
_MOST_WORKERS = 1024


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

    def shards(self) -> dict[str, Any]:
        """What each rank writes for itself where the model is sharded."""
        return {"model": self.model, "optimizer": self.optimizer}

    def without_shards(self) -> Checkpoint:
        """What one rank writes for all there."""
        return replace(self, model={}, optimizer={})


def run_fingerprint(config: FinetuneConfig, workers: int) -> str:
    """A digest of everything that decides the result of a run."""
    return _fingerprint(run_identity(config), config.effective_batch(workers))


def _fingerprint(identity: dict[str, Any], effective_batch: int) -> str:
    return digest({"run": identity, "effective_batch": effective_batch}, 64)


@contextmanager
def naming_workers(config: FinetuneConfig, workers: int) -> Iterator[None]:
    """Say it where the OtherRunError is about the same run on another number of workers."""
    try:
        yield
    except OtherRunError as error:
        batch, identity = config.effective_batch(workers), run_identity(config)
        # With a fixed global batch, the number of workers makes no other run.
        counts = range(1, _MOST_WORKERS) if config.batch.fixed == "mini_batch" else ()
        for count in counts:
            if _fingerprint(identity, batch // workers * count) == error.fingerprint:
                raise ValueError(
                    f"{error.folder} holds the {error.what} of this run on {count} workers, and "
                    f"this is {workers}: with another number the effective batch is another. "
                    f"Expected {count} workers, or another folder"
                ) from None
        raise


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
    partial = partial_folder(folder, checkpoint.step, group)
    if group is None:
        begin(partial)
        finish(partial, fingerprint, checkpoint, keep)
        return
    if group.leads:
        begin(partial)
    group.wait()
    distributed().save(checkpoint.shards(), checkpoint_id=partial / SHARDS)
    if group.leads:
        finish(partial, fingerprint, checkpoint.without_shards(), keep)
    group.wait()


def partial_folder(folder: Path, step: int, group: Group | None = None) -> Path:
    """Where the checkpoint of `step` is to lie before it is whole, the same on every rank: a name
    of its own, as a process that was taken for lost may run the same trial at this moment."""
    partial = partial_of(_folders(folder) / _name(step))
    return partial if group is None else partial.with_name(group.tell(partial.name))


def begin(partial: Path) -> None:
    """Make the folder of a checkpoint that is not whole."""
    partial.mkdir(parents=True)


def finish(partial: Path, fingerprint: str, checkpoint: Checkpoint, keep: int) -> None:
    """Write the rest of a checkpoint, give its folder its name, drop all but the `keep` latest.

    Another process at the same run writes the same things: where it was first, its step stands.
    """
    check = None if checkpoint.check is None else vars(checkpoint.check)
    _write({**vars(checkpoint), "check": check, "fingerprint": fingerprint}, partial / STATE)
    atomic_rename_dir(partial, partial.with_name(partial.name.partition(".")[0]))
    for old in saved(partial.parent.parent)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def load(folder: Path, fingerprint: str) -> Checkpoint | None:
    """The latest checkpoint of `folder`, or None; ValueError when it is another run's.

    Called before anything is written; what a killed process began is removed. Where the model is
    sharded, its parts are still to be read: `load_shards`.
    """
    for left in (*folder.glob("*.partial"), *_folders(folder).glob("*.partial")):
        shutil.rmtree(left, ignore_errors=True)
    places = saved(folder)
    if not places:
        return None
    import torch  # a second or two, which who only lists checkpoints does without

    state = torch.load(places[-1] / STATE, map_location="cpu", weights_only=True)
    if (other := state.pop("fingerprint")) != fingerprint:
        raise OtherRunError(folder, "checkpoint", other)
    check = state.pop("check")
    return Checkpoint(**state, check=None if check is None else Check(**check))


def load_shards(folder: Path, checkpoint: Checkpoint, shards: dict[str, Any]) -> Checkpoint:
    """On every rank: with its own parts of model and optimizer, read into those of `shards`."""
    place = _folders(folder) / _name(checkpoint.step)
    distributed().load(shards, checkpoint_id=place / SHARDS)
    return replace(checkpoint, **shards)


def distributed() -> Any:
    """torch.distributed.checkpoint: half a second of import that only sharded runs pay."""
    from torch.distributed import checkpoint

    return checkpoint


def _write(state: dict[str, Any], path: Path) -> None:
    import torch

    with path.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())


def saved(folder: Path) -> list[Path]:
    """The whole checkpoints of `folder`, the oldest first."""
    return sorted(place for place in _folders(folder).glob("step-*") if not place.suffix)


def discard(folder: Path) -> None:
    """Remove the checkpoints of a run that will not go on; what another process at the same run
    has begun is left to it."""
    for place in saved(folder):
        shutil.rmtree(place, ignore_errors=True)
    with suppress(OSError):
        _folders(folder).rmdir()


def _name(step: int) -> str:
    return f"step-{step:010d}"


def _folders(folder: Path) -> Path:
    return folder / "checkpoint"
