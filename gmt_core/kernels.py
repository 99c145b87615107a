"""Triton kernels for CUDA: counting, sampling and gathering for selections, masking in place.

One launch works on a whole group of tensors of one dtype, through a table of their addresses and
a list of the spans into which they are cut. Imported only where it is used, since Triton may be
absent: `threshold` and `rules` give the same results without it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmt_core.flat import INT_OF, flat_view
from gmt_core.magnitudes import LocalPool
from gmt_core.radix import Counter, Intervals

_SPAN: Final = 1 << 16  # elements of one program: its counts are added to memory once
_TILE: Final = 1 << 12  # elements at once
_FEW: Final = 1 << 8  # sampled elements at once
_VECTOR: Final = 8  # elements that one load may take


@final
class KernelCounter(Counter):
    """Counts pools of any size whose tensors have one dtype and lie on one device.

    Two reads of each element for 16-bit floats, four for float32; 2 KiB for each pool and 12
    bytes for each 65,536 elements.
    """

    # Triton's histogram costs time in proportion to its bins; with eight bits it keeps up with
    # the memory, and infinity starts a bin of its own in every 16-bit and 32-bit dtype.
    digit_bits = 8

    def __init__(self, pools: Sequence[LocalPool]) -> None:
        """Note where the elements lie; the magnitudes are those of the gradients."""
        self._group, self._rows = _rows_of(pools)

    def histogram(self, intervals: Intervals, bin_width: int) -> Tensor:
        """One launch for all pools; the intervals are bins of earlier ones."""
        group, bins = self._group, 1 << (intervals.width - bin_width)
        prefix = (intervals.low >> intervals.width).to(self._rows.device)
        counts = self._rows.new_zeros(len(prefix), bins)
        if group.spans:
            with group.on_device():
                _count[(group.spans,)](
                    *group.table, self._rows, prefix, counts,
                    group.most, intervals.width, bin_width, BINS=bins, ALIGNED=group.aligned,
                    INTEGER=group.integer, SPAN=_SPAN, TILE=_TILE,
                )  # fmt: skip
        return counts


def sampled(pools: Sequence[LocalPool], steps: Sequence[int]) -> Tensor:
    """Magnitude bits of every `steps[i]`-th element of each 65,536 of pool i, in one launch.

    int32, shape (pools, the most of them); rows are filled with -1.
    """
    group, rows = _rows_of(pools)
    owner_rows = rows[group.owners]
    step = torch.tensor(steps, device=rows.device)
    number = (group.lengths + step[owner_rows] - 1) // step[owner_rows]
    found = torch.zeros_like(step).index_add_(0, owner_rows, number)
    width = max(sample_size(pool, each) for pool, each in zip(pools, steps, strict=True))
    firsts = number.cumsum(0) - number - (found.cumsum(0) - found)[owner_rows]
    out = torch.full((len(pools), width), -1, dtype=torch.int32, device=rows.device)
    with group.on_device():
        _sample[(group.spans,)](
            *group.table, rows, step, firsts + owner_rows * width, out, group.most,
            INTEGER=group.integer, SPAN=_SPAN, TILE=_FEW,
        )  # fmt: skip
    return out


def sample_size(pool: LocalPool, step: int) -> int:
    """How many elements of a pool `sampled` reads."""
    wholes = [divmod(member.numel, _SPAN) for member in pool]
    return sum(whole * -(-_SPAN // step) + -(-rest // step) for whole, rest in wholes)


def gathered(
    pools: Sequence[LocalPool], bounds: Tensor, rooms: Sequence[int], infinity: int
) -> tuple[Tensor, Tensor]:
    """What one pass finds of each pool whose `bounds` are its lowest and highest bits.

    The elements inside, in the integers of their size, as far as there is room for a pool; and
    counts, int64 of shape (pools, 3): above the bounds, inside, NaN or infinite.
    """
    group, rows = _rows_of(pools)
    counts = rows.new_zeros(len(pools), 3)
    room = torch.tensor([0, *rooms], device=rows.device).cumsum(0)
    out = torch.empty(sum(rooms), dtype=INT_OF[group.dtype], device=rows.device)
    with group.on_device():
        _gather[(group.spans,)](
            *group.table, rows, bounds, room, out, counts, group.most, infinity,
            ALIGNED=group.aligned, INTEGER=group.integer, SPAN=_SPAN, TILE=_TILE,
        )  # fmt: skip
    return out, counts


def _rows_of(pools: Sequence[LocalPool]) -> tuple[_Group, Tensor]:
    """Where the elements of all pools lie, and of each tensor its pool: int64."""
    group = _Group.of([member.gradient for pool in pools for member in pool])
    rows = [row for row, pool in enumerate(pools) for _ in pool]
    return group, torch.tensor(rows, device=group.addresses.device)


@torch.no_grad()
def mask_(gradients: Sequence[Tensor], thresholds: Sequence[Tensor]) -> None:
    """Zero in place every element below its gradient's threshold, all of one dtype and device."""
    _launch_mask(gradients, thresholds, None)


@torch.no_grad()
def mask_and_count_(gradients: Sequence[Tensor], thresholds: Sequence[Tensor]) -> Tensor:
    """As `mask_`; how many elements of each stay: int64, shape (tensors,)."""
    counts = torch.zeros(len(gradients), dtype=torch.int64, device=gradients[0].device)
    _launch_mask(gradients, thresholds, counts)
    return counts


def _launch_mask(
    gradients: Sequence[Tensor], thresholds: Sequence[Tensor], counts: Tensor | None
) -> None:
    """One launch; where there are counts, they are added to."""
    group = _Group.of(gradients)
    stacked = torch.stack([t.to(group.addresses.device) for t in thresholds])
    limits = stacked.view(INT_OF[gradients[0].dtype]).to(torch.int32)
    with group.on_device():
        _mask[(group.spans,)](
            *group.table, limits, limits if counts is None else counts, group.most,
            COUNT=counts is not None, ALIGNED=group.aligned, INTEGER=group.integer,
            SPAN=_SPAN, TILE=_TILE,
        )  # fmt: skip


@final
@dataclass(frozen=True)
class _Group:
    """Where the elements of some tensors lie: addresses, sizes, and spans of at most 65,536."""

    addresses: Tensor  # int64, shape (tensors,)
    sizes: Tensor  # int64, shape (tensors,)
    owners: Tensor  # of each span, the tensor: int64, shape (spans,)
    starts: Tensor  # of each span, its first element: int64, shape (spans,)
    dtype: torch.dtype
    aligned: bool  # whether every tensor begins and ends where a vector load may

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> _Group:
        """Cut the tensors into spans; empty ones have none."""
        device = tensors[0].device
        flats = [flat_view(t.detach()) for t in tensors]
        addresses = torch.tensor([f.data_ptr() for f in flats], device=device)
        sizes = torch.tensor([f.numel() for f in flats], device=device)
        number = (sizes + _SPAN - 1) // _SPAN
        total = sum(-(-f.numel() // _SPAN) for f in flats)
        places = torch.arange(len(flats), device=device)
        owners = places.repeat_interleave(number, output_size=total)
        first = number.cumsum(0) - number
        starts = (torch.arange(total, device=device) - first[owners]) * _SPAN
        aligned = all(f.data_ptr() % 16 == 0 and f.numel() % _VECTOR == 0 for f in flats)
        return cls(addresses, sizes, owners, starts, tensors[0].dtype, aligned)

    @property
    def table(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What every kernel reads first."""
        return self.addresses, self.sizes, self.owners, self.starts

    @property
    def spans(self) -> int:
        """How many programs one launch needs."""
        return self.owners.numel()

    @property
    def lengths(self) -> Tensor:
        """Elements of each span: int64, shape (spans,)."""
        return (self.sizes[self.owners] - self.starts).clamp_(max=_SPAN)

    @property
    def integer(self) -> tl.dtype:
        """The integer of an element's width."""
        return tl.int16 if self.dtype.itemsize == 2 else tl.int32

    @property
    def most(self) -> int:
        """All bits but the sign."""
        return int(torch.iinfo(INT_OF[self.dtype]).max)

    def on_device(self) -> contextlib.AbstractContextManager[object]:
        """Launch where the tensors lie."""
        device = self.addresses.device
        return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@triton.jit
def _count(
    addresses, sizes, owners, starts, rows, prefixes, histogram,
    most, top, low, BINS: tl.constexpr, ALIGNED: tl.constexpr,
    INTEGER: tl.constexpr, SPAN: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Count the next digit of a span's elements that begin with their pool's prefix."""
    owner = tl.load(owners + tl.program_id(0))
    start = tl.load(starts + tl.program_id(0))
    size = tl.load(sizes + owner)
    row = tl.load(rows + owner)
    prefix = tl.load(prefixes + row).to(tl.int32)
    gradient = tl.load(addresses + owner).to(tl.pointer_type(INTEGER))
    if ALIGNED:  # a table's numbers carry no such promise
        gradient, size = tl.multiple_of(gradient, 16), tl.multiple_of(size, 8)
        start = tl.multiple_of(start, SPAN)
    bins = tl.arange(0, BINS)
    counts = tl.zeros((BINS,), dtype=tl.int32)
    for offset in range(0, tl.minimum(size - start, SPAN).to(tl.int32), TILE):
        places = start + offset + tl.arange(0, TILE)
        bits = tl.load(gradient + places, mask=places < size, other=0).to(tl.int32) & most
        matching = (places < size) & ((bits >> top) == prefix)
        counts += tl.histogram((bits >> low) & (BINS - 1), BINS, mask=matching)
    tl.atomic_add(histogram + row * BINS + bins, counts.to(tl.int64), mask=counts > 0)


@triton.jit
def _sample(
    addresses, sizes, owners, starts, rows, steps, firsts, sample, most,
    INTEGER: tl.constexpr, SPAN: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Copy the magnitude bits of every so-many-th element of a span."""
    owner = tl.load(owners + tl.program_id(0))
    start = tl.load(starts + tl.program_id(0))
    first = tl.load(firsts + tl.program_id(0))
    step = tl.load(steps + tl.load(rows + owner)).to(tl.int32)
    length = tl.minimum(tl.load(sizes + owner) - start, SPAN).to(tl.int32)
    gradient = tl.load(addresses + owner).to(tl.pointer_type(INTEGER)) + start
    number = (length + step - 1) // step
    for offset in range(0, number, TILE):
        places = offset + tl.arange(0, TILE)
        bits = tl.load(gradient + places * step, mask=places < number, other=0).to(tl.int32) & most
        tl.store(sample + first + places, bits, mask=places < number)


@triton.jit
def _gather(
    addresses, sizes, owners, starts, rows, bounds, rooms, inside, counts, most, infinity,
    ALIGNED: tl.constexpr, INTEGER: tl.constexpr, SPAN: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Count a span's elements above its pool's bounds and not finite; gather those inside."""
    owner = tl.load(owners + tl.program_id(0))
    start = tl.load(starts + tl.program_id(0))
    size = tl.load(sizes + owner)
    row = tl.load(rows + owner)
    low = tl.load(bounds + 2 * row)
    high = tl.load(bounds + 2 * row + 1)
    first = tl.load(rooms + row)
    room = tl.load(rooms + row + 1) - first
    gradient = tl.load(addresses + owner).to(tl.pointer_type(INTEGER))
    if ALIGNED:  # a table's numbers carry no such promise
        gradient, size = tl.multiple_of(gradient, 16), tl.multiple_of(size, 8)
        start = tl.multiple_of(start, SPAN)
    above = tl.zeros((TILE,), dtype=tl.int32)
    bad = tl.zeros((TILE,), dtype=tl.int32)
    for offset in range(0, tl.minimum(size - start, SPAN).to(tl.int32), TILE):
        places = start + offset + tl.arange(0, TILE)
        bits = tl.load(gradient + places, mask=places < size, other=0).to(tl.int32) & most
        above += (bits > high).to(tl.int32)
        bad += (bits >= infinity).to(tl.int32)
        chosen = ((places < size) & (bits >= low) & (bits <= high)).to(tl.int32)
        ranks = tl.cumsum(chosen, 0)
        taken = tl.atomic_add(counts + 3 * row + 1, tl.sum(chosen).to(tl.int64))
        slots = taken + ranks - 1
        tl.store(inside + first + slots, bits.to(INTEGER), mask=(chosen > 0) & (slots < room))
    tl.atomic_add(counts + 3 * row, tl.sum(above).to(tl.int64))
    tl.atomic_add(counts + 3 * row + 2, tl.sum(bad).to(tl.int64))


@triton.jit
def _mask(
    addresses, sizes, owners, starts, limits, counts, most,
    COUNT: tl.constexpr, ALIGNED: tl.constexpr,
    INTEGER: tl.constexpr, SPAN: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Zero a span's elements whose magnitude bits lie below their tensor's limit.

    With COUNT, add up how many stay.
    """
    owner = tl.load(owners + tl.program_id(0))
    start = tl.load(starts + tl.program_id(0))
    size = tl.load(sizes + owner)
    limit = tl.load(limits + owner)
    gradient = tl.load(addresses + owner).to(tl.pointer_type(INTEGER))
    if ALIGNED:  # a table's numbers carry no such promise
        gradient, size = tl.multiple_of(gradient, 16), tl.multiple_of(size, 8)
        start = tl.multiple_of(start, SPAN)
    stay = tl.zeros((TILE,), dtype=tl.int32)
    for offset in range(0, tl.minimum(size - start, SPAN).to(tl.int32), TILE):
        places = start + offset + tl.arange(0, TILE)
        value = tl.load(gradient + places, mask=places < size, other=0)
        kept = (value.to(tl.int32) & most) >= limit
        tl.store(gradient + places, tl.where(kept, value, 0), mask=places < size)
        if COUNT:
            stay += (kept & (places < size)).to(tl.int32)
    if COUNT:
        tl.atomic_add(counts + owner, tl.sum(stay).to(tl.int64))
