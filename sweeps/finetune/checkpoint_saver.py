"""Saves the checkpoints of one run: while training waits, or in the background from a copy."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, final

import torch
import torch.distributed as dist

from sweeps.finetune import checkpoint
from sweeps.finetune.checkpoint import Checkpoint
from sweeps.finetune.process_group import Group


@final
class Saver:
    """One checkpoint at a time; a kill at any moment leaves the latest whole one."""

    def __init__(
        self, folder: Path, fingerprint: str, keep: int, group: Group | None, *, background: bool
    ) -> None:
        """`group` where the model is sharded: every rank then has a saver and uses it alike."""
        self._folder, self._fingerprint, self._keep = folder, fingerprint, keep
        self._group = group
        self._pool = ThreadPoolExecutor(1, "checkpoint") if background else None
        self._pending: Future[Any] | None = None
        # Of its own: what the writers tell each other must not mix with what the trainers do.
        self._writers = dist.new_group(backend="gloo") if background and group else None

    def save(self, state: Checkpoint) -> None:
        """Save `state`; in the background, return once it is copied."""
        self.wait()
        if self._pool is None:
            checkpoint.save(self._folder, self._fingerprint, state, self._keep, group=self._group)
        elif self._group is None:
            copy = Checkpoint(**_copied(vars(state)))
            self._pending = self._pool.submit(
                checkpoint.save, self._folder, self._fingerprint, copy, self._keep
            )
        else:
            self._begin_sharded(state, self._group, self._pool)

    def wait(self) -> None:
        """Return when nothing is being written, on every rank; raises what went wrong there."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
            if self._group is not None:
                self._group.wait()

    def close(self) -> None:
        """Let what is being written come to its end; for a run that failed as well."""
        if self._pending is not None:
            wait([self._pending])
        if self._pool is not None:
            self._pool.shutdown()

    def _begin_sharded(self, state: Checkpoint, group: Group, pool: ThreadPoolExecutor) -> None:
        partial = checkpoint.partial_folder(self._folder, state.step, group)
        if group.leads:
            checkpoint.begin(partial)
        group.wait()
        written: Future[Any] = checkpoint.distributed().async_save(
            state.shards(),
            checkpoint_id=partial / checkpoint.SHARDS,
            process_group=self._writers,
        )
        self._pending = written
        if group.leads:
            rest = Checkpoint(**_copied(vars(state.without_shards())))
            self._pending = pool.submit(self._finish, written, partial, rest)

    def _finish(self, written: Future[Any], partial: Path, rest: Checkpoint) -> None:
        """On rank 0, whose writing ends with the list of all ranks' parts: then it is whole."""
        written.result()
        checkpoint.finish(partial, self._fingerprint, rest, self._keep)


def _copied(value: Any) -> Any:
    """The same tree of plain values with copies of its tensors, on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(each) for each in value)
    return value
