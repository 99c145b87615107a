"""The group of processes that run one fine-tuning together: a thin view of torch.distributed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import final

import torch
import torch.distributed as dist


@final
@dataclass(frozen=True)
class Group:
    """This process's place: `rank` of `size`; a group of one needs no torch.distributed."""

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
        """Add `tensor` up over the group, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def agree(self, value: object, what: str) -> None:
        """Raise RuntimeError on every rank when the ranks' small picklable values differ."""
        if self.size == 1:
            return
        values: list[object] = [None] * self.size
        dist.all_gather_object(values, value)
        if any(other != values[0] for other in values):
            raise RuntimeError(f"the workers disagree on {what}: {values}")

    def wait(self) -> None:
        """Return when every rank is here."""
        if self.size > 1:
            dist.barrier()

    def device(self) -> torch.device:
        """The accelerator of this rank (torchrun's LOCAL_RANK), else the CPU."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        local = int(os.environ.get("LOCAL_RANK", "0")) if self.size > 1 else None
        if local is None or local >= torch.cuda.device_count():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cuda", local)
