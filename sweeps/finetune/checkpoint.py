"""Checkpoints in the run's folder: the latest k, each enough to resume bit for bit.

Data order and random states are functions of seed and step, so storing the step is enough.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.reporter import Check
from sweeps.finetune.run_identity import (
    FORK_CHANGES,
    OtherRunError,
    digest,
    lasting_identity,
    run_identity,
)
from sweeps.storage.atomic_io import atomic_rename_dir, partial_of
from sweeps.storage.trial_files import STATE_FILE

if TYPE_CHECKING:
    from sweeps.finetune.process_group import Group

STATE, SHARDS = STATE_FILE, "shards"
_MOST_WORKERS = 1024


@dataclass(frozen=True)
class Checkpoint:
    """The state after `step` updates, the latest check (if any) and the seconds spent.

    `lasting`: what a run that continues it must share (see `lasting_identity`).
    """

    step: int
    check: Check | None
    model: dict[str, Any]
    optimizer: dict[str, Any]
    masker: dict[str, Any]
    train_seconds: float
    eval_seconds: float
    lasting: dict[str, Any] = field(default_factory=dict)

    def shards(self) -> dict[str, Any]:
        """What each rank writes itself if the model is sharded."""
        return {"model": self.model, "optimizer": self.optimizer}

    def without_shards(self) -> Checkpoint:
        """What one rank writes if the model is sharded."""
        return replace(self, model={}, optimizer={})


def run_fingerprint(config: FinetuneConfig, workers: int) -> str:
    """A digest of everything that determines the result of a run."""
    return _fingerprint(run_identity(config), config.effective_batch(workers))


def _fingerprint(identity: dict[str, Any], effective_batch: int) -> str:
    return digest({"run": identity, "effective_batch": effective_batch}, 64)


@contextmanager
def naming_workers(config: FinetuneConfig, workers: int) -> Iterator[None]:
    """Explain an OtherRunError if the folder holds the same run on another number of workers."""
    try:
        yield
    except OtherRunError as error:
        batch, identity = config.effective_batch(workers), run_identity(config)
        # With a fixed global batch, the number of workers does not change the run.
        counts = range(1, _MOST_WORKERS) if config.batch.fixed == "mini_batch" else ()
        for count in counts:
            if _fingerprint(identity, batch // workers * count) == error.fingerprint:
                raise ValueError(
                    f"{error.folder} holds the {error.what} of this run on {count} workers, but "
                    f"now there are {workers}, which changes the effective batch. "
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
    """Add a checkpoint and drop all but the `keep` latest; always leaves a complete one.

    Each checkpoint has its own folder, which gets its final name once all of it is on disk. With
    `group`, call it on every rank: model and optimizer are this rank's shards, and
    torch.distributed.checkpoint writes each rank's own. Without `group`, one rank calls it and
    writes everything.
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
    """The temporary folder of the checkpoint of `step`, the same on every rank.

    Its name is unique, because a process that was considered lost may still run the same trial.
    """
    partial = partial_of(step_folder(folder, step))
    return partial if group is None else partial.with_name(group.tell(partial.name))


def begin(partial: Path) -> None:
    """Create the folder of an incomplete checkpoint."""
    partial.mkdir(parents=True)


def finish(partial: Path, fingerprint: str, checkpoint: Checkpoint, keep: int) -> None:
    """Complete a checkpoint, rename its folder, and drop all but the `keep` latest.

    Another process at the same run writes the same content; if it was first, its checkpoint stays.
    """
    check = None if checkpoint.check is None else vars(checkpoint.check)
    _write({**vars(checkpoint), "check": check, "fingerprint": fingerprint}, partial / STATE)
    atomic_rename_dir(partial, partial.with_name(partial.name.partition(".")[0]))
    for old in saved(partial.parent.parent)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def load(folder: Path, fingerprint: str) -> Checkpoint | None:
    """The latest checkpoint of `folder`, or None; ValueError if it belongs to another run.

    Call it before anything is written: it removes checkpoints that a killed process left
    incomplete. If the model is sharded, `load_shards` reads its parts afterwards.
    """
    for left in (*folder.glob("*.partial"), *_folders(folder).glob("*.partial")):
        shutil.rmtree(left, ignore_errors=True)
    places = saved(folder)
    if not places:
        return None
    checkpoint, other = _read(places[-1])
    if other != fingerprint:
        raise OtherRunError(folder, "checkpoint", other)
    return checkpoint


def load_start(place: Path, config: FinetuneConfig, workers: int) -> Checkpoint:
    """The checkpoint in `place`, which another run left and this one continues.

    Raises:
        ValueError: there is no checkpoint, or this run cannot continue it.
    """
    if not (place / STATE).is_file():
        raise ValueError(
            f"start_from: no checkpoint in {place}; expected a folder such as "
            f"RUN/checkpoint/{step_name(8)}"
        )
    checkpoint, _ = _read(place)
    own, other = lasting_identity(config, workers), checkpoint.lasting
    if differing := [name for name in {**own, **other} if own.get(name) != other.get(name)]:
        raise ValueError(
            f"start_from: the run of {place} has a different {', '.join(differing)}; after a "
            f"checkpoint, only these may change: {', '.join(FORK_CHANGES)}"
        )
    if checkpoint.step >= (steps := config.steps(workers)):
        raise ValueError(
            f"start_from: {place} follows update {checkpoint.step}, and this run has only "
            f"{steps} updates: expected more examples, or an earlier checkpoint"
        )
    # Masks are drawn by the count of updates; the settings of the method are this run's own.
    return replace(checkpoint, masker={"update": checkpoint.masker["update"]})


def _read(place: Path) -> tuple[Checkpoint, str]:
    """A checkpoint without shards, and the fingerprint of its run."""
    import torch  # takes a second or two, and listing checkpoints does not need it

    state = torch.load(place / STATE, map_location="cpu", weights_only=True)
    fingerprint, check = state.pop("fingerprint"), state.pop("check")
    return Checkpoint(**state, check=None if check is None else Check(**check)), fingerprint


def load_shards(place: Path, checkpoint: Checkpoint, shards: dict[str, Any]) -> Checkpoint:
    """The checkpoint in ``place`` with this rank's parts of model and optimizer; call it on every
    rank."""
    distributed().load(shards, checkpoint_id=place / SHARDS)
    return replace(checkpoint, **shards)


def distributed() -> Any:
    """torch.distributed.checkpoint; its import takes half a second, so only sharded runs do it."""
    from torch.distributed import checkpoint

    return checkpoint


def _write(state: dict[str, Any], path: Path) -> None:
    import torch

    with path.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())


def saved(folder: Path) -> list[Path]:
    """The complete checkpoints of `folder`, oldest first."""
    return sorted(place for place in _folders(folder).glob("step-*") if not place.suffix)


def discard(folder: Path) -> None:
    """Remove the checkpoints of a run that will not continue.

    An incomplete checkpoint of another process at the same run is kept.
    """
    for place in saved(folder):
        shutil.rmtree(place, ignore_errors=True)
    with suppress(OSError):
        _folders(folder).rmdir()


def step_folder(folder: Path, step: int) -> Path:
    """Where a run has its checkpoint of this update."""
    return _folders(folder) / step_name(step)


def step_name(step: int) -> str:
    """The name of the folder of a checkpoint."""
    return f"step-{step:010d}"


def _folders(folder: Path) -> Path:
    return folder / "checkpoint"
