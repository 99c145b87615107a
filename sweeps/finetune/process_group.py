"""The processes that run one fine-tuning together: a thin wrapper of torch.distributed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast, final

import torch
import torch.distributed as dist

T = TypeVar("T")
LOOK_AGAIN_SECONDS = (0.5, 1.0, 2.0, 4.0, 0.0)
"""Pauses between reads of files that ranks see differently."""


@final
@dataclass(frozen=True)
class Group:
    """This process's `rank` in a group of `size`; a group of one needs no torch.distributed."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Group:
        """The initialised default process group, or a group of one."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def leads(self) -> bool:
        """Whether this rank writes the files."""
        return self.rank == 0

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum `tensor` over the group, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def tell(self, value: T) -> T:
        """The `value` of rank 0, on every rank."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box)
        return box[0]

    def every(self, value: T) -> list[T]:
        """The `value` of each rank, on every rank."""
        found = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(found, value)
        return found

    def from_lead(self, make: Callable[[], T]) -> T:
        """What `make` returns on rank 0, on every rank; or the ValueError that it raises there."""
        if self.size == 1:
            return make()
        found: T | ValueError | None = None
        if self.leads:
            try:
                found = make()
            except ValueError as error:
                found = error
        told = self.tell(found)
        if isinstance(told, ValueError):
            raise told
        return cast(T, told)

    def agree(self, look: Callable[[], T], sign: Callable[[T], object], what: str) -> T:
        """What `look` reads from files, once all ranks see the same.

        `sign`: a small value that identifies it. If ranks differ, or a file disappears, all retry
        for some seconds: a process that was considered lost may still run the same trial. After
        that, every rank raises the OSError that all of them got, or RuntimeError.
        """
        failure: OSError | None = None
        for pause in LOOK_AGAIN_SECONDS:
            try:
                found = [look()]
            except OSError as error:
                found, mine, failure = [], (False, str(error)), error
            else:
                mine = (True, repr(sign(found[0])))
            signs = self.every(mine)
            if found and all(other == mine for other in signs):
                return found[0]
            time.sleep(pause)
        if failure is not None and not any(was_found for was_found, _ in signs):
            raise failure
        raise RuntimeError(f"the workers disagree on {what}: {[said for _, said in signs]}")

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier()

    def device(self) -> torch.device:
        """The accelerator of this rank (LOCAL_RANK of torchrun), else the CPU."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        local = int(os.environ.get("LOCAL_RANK", "0")) if self.size > 1 else None
        if local is None or local >= torch.cuda.device_count():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cuda", local)
