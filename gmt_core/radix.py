"""Thresholds of many pools of elements at once.

A radix select over the bits of the magnitudes: each pass counts, for every pool, the values of
the next eleven bits among the elements that still may be the answer. Small tensors are laid end
to end, so that a pass costs a handful of operations however many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, final

import torch
from torch import Tensor

from gmt_core.errors import NonFiniteGradientError
from gmt_core.flat import INT_OF, flat_view, from_bits, infinity_bits, magnitude_bits

DIGIT_BITS: Final = 11  # infinity starts a digit of its own in every dtype
BLOCK: Final = 1 << 19  # elements held as integers at once


@torch.no_grad()
def radix_thresholds(
    pools: Sequence[Sequence[Tensor]],
    kept: Sequence[int],
    dtype: torch.dtype,
) -> list[Tensor]:
    """The exact `kept[i]`-th largest magnitude of pool i, without dimensions, of that dtype.

    `dtype` is one that holds every element exactly; there must be at least one pool. Raises NonFiniteGradientError with the index of the first pool that holds NaN or infinity.
    """
    device = next(t.device for pool in pools for t in pool)
    rank = torch.tensor(kept, dtype=torch.int64, device=device)
    prefix, top = torch.zeros_like(rank), magnitude_bits(dtype)
    single: _Block | None = None
    scratch = _Scratch(dtype)
    while top:
        width = min(DIGIT_BITS, top)
        histogram = torch.zeros(len(pools), 1 << width, dtype=torch.int64, device=device)
        first, fixed, blocks = top == magnitude_bits(dtype), prefix.tolist(), 0
        for block in (single,) if single else _blocks(pools, dtype, scratch):
            left = block if first else block.matching(fixed, top)
            left.count_into(histogram, fixed, top - width, width)
            blocks += 1
            held = left
        single = held if blocks == 1 else None
        if first:
            _refuse_non_finite(histogram[:, infinity_bits(dtype) >> (top - width) :])
        digit, rank = descend(histogram, rank)
        prefix, top = (prefix << width) | digit, top - width
    return list(from_bits(prefix, dtype).unbind())


def descend(histogram: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """In each row, the bin that holds the rank-th largest, and that element's rank inside it.

    `histogram` counts, shape (rows, bins); `rank` from 1, shape (rows,); so are the results.
    """
    above = histogram.flip(1).cumsum(1)
    steps = torch.searchsorted(above, rank.unsqueeze(1))
    earlier = above.gather(1, (steps - 1).clamp_(min=0)).masked_fill_(steps == 0, 0)
    return histogram.shape[1] - 1 - steps.squeeze(1), rank - earlier.squeeze(1)


def _refuse_non_finite(counts: Tensor) -> None:
    bad = counts.any(dim=1).nonzero()
    if bad.numel():
        raise NonFiniteGradientError(index=int(bad[0]))


@dataclass(frozen=True)
class _Block:
    """Magnitude bits of elements of several pools, end to end in the order of the pools."""

    bits: Tensor  # int32 or int64, shape (sum of sizes,)
    spare: Tensor  # a buffer of the same shape and dtype
    pools: list[int]
    sizes: list[int]

    def matching(self, prefix: list[int], top: int) -> _Block:
        """The elements whose bits from `top` up are those of their pool's prefix."""
        leading = torch.bitwise_right_shift(self.bits, top, out=self.spare)
        torch._foreach_sub_(leading.split(self.sizes), [prefix[pool] for pool in self.pools])
        # A cast to bool is several times faster than a comparison of integers.
        places = leading.bool().logical_not_().nonzero().squeeze(1)
        ends = torch.tensor(self.sizes).cumsum(0).to(places.device)
        counts = [0, *torch.searchsorted(places, ends).tolist()]
        sizes = [after - before for before, after in pairwise(counts)]
        bits = self.bits[places]
        return _Block(bits, self.spare[: bits.numel()], self.pools, sizes)

    def count_into(self, histogram: Tensor, prefix: list[int], low: int, width: int) -> None:
        """Add each element to the bin of its next `width` bits, in the row of its pool."""
        rows = len(self.pools)
        keys = torch.bitwise_right_shift(self.bits, low, out=self.spare)
        offsets = [(row - prefix[pool]) << width for row, pool in enumerate(self.pools)]
        torch._foreach_add_(keys.split(self.sizes), offsets)
        counts = torch.bincount(keys, minlength=rows << width).view(rows, -1)
        places = torch.tensor(self.pools, device=histogram.device)
        histogram.index_add_(0, places, counts.to(histogram.device))


def _blocks(
    pools: Sequence[Sequence[Tensor]], dtype: torch.dtype, scratch: _Scratch
) -> Iterator[_Block]:
    """All elements, each block on one device and of at most BLOCK elements."""
    pieces: list[Tensor] = []
    owners: list[int] = []
    size = 0
    for pool, tensors in enumerate(pools):
        for tensor in tensors:
            for piece in flat_view(tensor.detach()).split(BLOCK):
                if pieces and (size + piece.numel() > BLOCK or piece.device != pieces[0].device):
                    yield scratch.block(pieces, owners)
                    pieces, owners, size = [], [], 0
                pieces.append(piece)
                owners.append(pool)
                size += piece.numel()
    yield scratch.block(pieces, owners)


@final
class _Scratch:
    """Buffers that one block after the other uses: fresh memory costs more than the arithmetic."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        # Keys of several pools need more than sixteen bits.
        self._key = torch.int64 if dtype.itemsize == 8 else torch.int32
        self._buffers = torch.empty(2, 0, dtype=self._key)

    def block(self, pieces: list[Tensor], owners: list[int]) -> _Block:
        """The magnitude bits of the pieces; the block before it is overwritten."""
        size, device = sum(piece.numel() for piece in pieces), pieces[0].device
        if self._buffers.shape[1] < size or self._buffers.device != device:
            self._buffers = torch.empty(2, size, dtype=self._key, device=device)
        bits, spare = self._buffers[:, :size]
        integer = INT_OF[self._dtype]
        joined = torch.cat([piece.to(self._dtype).view(integer) for piece in pieces], out=bits)
        joined.bitwise_and_(torch.iinfo(integer).max)
        return _Block(bits, spare, owners, [piece.numel() for piece in pieces])
