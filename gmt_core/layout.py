"""Where the part of a tensor that this rank holds lies in the whole tensor."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard, final

import torch
from torch import Tensor

from gmt_core._compat import cut_dimension, split_factor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.tensor import DTensor


@final
@dataclass(frozen=True)
class Spread:
    """The ranks among which a tensor is divided: one process group for each mesh dimension.

    What is summed over all groups belongs to the whole tensor; without groups this rank holds it.
    """

    groups: tuple[ProcessGroup, ...] = ()
    device_type: str = "cpu"  # where the collectives run


@final
@dataclass(frozen=True)
class Layout:
    """A block of shape `local` at `offset` of a tensor of `shape`."""

    shape: tuple[int, ...]
    local: tuple[int, ...]
    offset: tuple[int, ...]
    spread: Spread = Spread()

    @classmethod
    def of(cls, tensor: Tensor, name: str) -> Layout:
        """Read it from a tensor; ValueError, naming the parameter, for one that has no place."""
        if not is_dtensor(tensor):
            shape = tuple(tensor.shape)
            return cls(shape, shape, (0,) * len(shape))
        local = tuple(tensor.to_local().shape)
        found, offset, groups = _block(tensor, name)
        if found != local:
            raise ValueError(
                f"{name}: expected a local shard of shape {found} under {tensor.placements}, "
                f"found {local}"
            )
        spread = Spread(groups, tensor.device_mesh.device_type)
        return cls(tuple(tensor.shape), local, offset, spread)

    @property
    def numel(self) -> int:
        """Elements of the whole tensor."""
        return math.prod(self.shape)

    def places(self, rest: Tensor, tensor: Tensor) -> Tensor:
        """Row-major indices in the whole of some local elements: int64, one dimension, as they.

        The local elements are counted in the order of `tensor`'s memory.
        """
        strides = tensor.stride()
        found = torch.zeros_like(rest)
        # Dimensions from the outermost in memory; of size 1 they carry no coordinate.
        outer = sorted(range(tensor.dim()), key=lambda d: strides[d], reverse=True)
        for dim in outer:
            if self.local[dim] == 1:
                coordinate = torch.zeros_like(rest)
            else:
                coordinate = rest // strides[dim]
                rest = rest - coordinate * strides[dim]
            found += (coordinate + self.offset[dim]) * math.prod(self.shape[dim + 1 :])
        return found


def is_dtensor(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether it is a DTensor; never imports that module, since whoever made one did."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_part(tensor: Tensor) -> Tensor:
    """What this rank holds, sharing the memory."""
    with torch.no_grad():
        return tensor.to_local() if is_dtensor(tensor) else tensor.detach()


def reduced(parameter: Tensor) -> Tensor:
    """Its gradient; a sum that is still pending over ranks is done first, and kept in `.grad`."""
    gradient = parameter.grad
    assert gradient is not None
    pending = is_dtensor(gradient) and any(p.is_partial() for p in gradient.placements)
    if pending and is_dtensor(gradient) and is_dtensor(parameter):
        gradient = gradient.redistribute(placements=parameter.placements)
        parameter.grad = gradient
    return gradient


def _block(
    tensor: DTensor, name: str
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[ProcessGroup, ...]]:
    """Shape and offset of the local block, and the groups over which the tensor is spread."""
    mesh, placements = tensor.device_mesh, tensor.placements
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        raise ValueError(f"{name}: this rank is not part of its device mesh {mesh}")
    dims = [_sharded_dim(placement, name) for placement in placements]
    spread = [i for i, dim in enumerate(dims) if dim is not None]
    # A strided shard (FSDP over tensor parallelism) cuts what the later mesh dimensions left.
    order = sorted(spread, key=lambda i: split_factor(placements[i]) is not None)
    local, offset = list(tensor.shape), [0] * tensor.dim()
    for i in order:
        dim, parts = dims[i], mesh.size(i)
        assert dim is not None
        later = math.prod(mesh.size(j) for j in spread if j > i and dims[j] == dim)
        if split_factor(placements[i]) not in (None, later):
            raise ValueError(f"{name}: cannot place a shard under {placements}")
        chunk = -(-local[dim] // parts)
        begin = min(coordinate[i] * chunk, local[dim])
        local[dim] = min(begin + chunk, local[dim]) - begin
        offset[dim] += begin
    return (
        tuple(local),
        tuple(offset),
        tuple(mesh.get_group(i) for i in spread if mesh.size(i) > 1),
    )


def _sharded_dim(placement: object, name: str) -> int | None:
    """The dimension that a placement cuts; None where it copies."""
    try:
        return cut_dimension(placement)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def all_summed(table: Tensor, spread: Spread) -> Tensor:
    """The sum of every rank's table, on the CPU: one collective for each group."""
    if not spread.groups:
        return table
    table = table.to(spread.device_type)
    for group in spread.groups:
        all_reduce(table, group)
    return table.cpu()


def all_reduce(table: Tensor, group: ProcessGroup) -> None:
    """Add the tables of a group up, in place on every rank."""
    torch.distributed.all_reduce(table, group=group)
