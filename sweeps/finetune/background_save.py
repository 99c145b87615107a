"""Save a run's checkpoints, either synchronously or in the background from a copy."""

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
    """Saves one checkpoint at a time; after a kill, the latest complete one remains."""

    def __init__(
        self, folder: Path, fingerprint: str, keep: int, group: Group | None, *, background: bool
    ) -> None:
        """`group`: given if the model is sharded; every rank then uses its saver alike."""
        self._folder, self._fingerprint, self._keep = folder, fingerprint, keep
        self._group = group
        self._pool = ThreadPoolExecutor(1, "checkpoint") if background else None
        self._pending: Future[Any] | None = None
        # A separate group, so that the writers' messages do not mix with the trainers'.
        self._writers = dist.new_group(backend="gloo") if background and group else None

    def save(self, state: Checkpoint) -> None:
        """Save `state`; in the background, return as soon as it is copied."""
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
        """Wait until nothing is being written on any rank; raises errors of the writer."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
            if self._group is not None:
                self._group.wait()

    def close(self) -> None:
        """Let a running save finish, also if the run failed."""
        if self._pending is not None:
            wait([self._pending])
        if self._pool is not None:
            self._pool.shutdown()
        if self._writers is not None:
            dist.destroy_process_group(self._writers)

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
        """On rank 0, whose save ends with the list of all shards: complete the checkpoint."""
        written.result()
        checkpoint.finish(partial, self._fingerprint, rest, self._keep)


def _copied(value: Any) -> Any:
    """The same tree of plain values, with its tensors copied to the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(each) for each in value)
    return value
