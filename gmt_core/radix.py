"""Thresholds of many small pools of elements at once.

A radix select over the bits of the magnitudes: each pass counts, for every pool, the values of
the next eleven bits among the elements that still may be the answer. The pools are laid end to
end, so that a pass costs a handful of operations however many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, final

import torch
from torch import Tensor

from gmt_core.errors import NonFiniteGradientError
from gmt_core.flat import INT_OF, flat_view, from_bits, infinity_bits, magnitude_bits

DIGIT_BITS: Final = 11  # infinity starts a digit of its own in every dtype


@torch.no_grad()
def radix_thresholds(
    pools: Sequence[Sequence[Tensor]], kept: Sequence[int], dtype: torch.dtype
) -> list[Tensor]:
    """The exact `kept[i]`-th largest magnitude of pool i, without dimensions, on its device.

    `dtype` is one that holds every element exactly; no pool is empty. Takes about 20 bytes for
    each element and 64 KiB for each pool. Raises NonFiniteGradientError with the index of the
    first pool that holds NaN or infinity.
    """
    block = _Block.of(pools, dtype)
    rank = torch.tensor(kept, dtype=torch.int64, device=block.bits.device)
    prefix, low = torch.zeros_like(rank), magnitude_bits(dtype)
    while low:
        if low < magnitude_bits(dtype):
            block = block.beginning_with(prefix, low)
        width = min(DIGIT_BITS, low)
        low -= width
        histogram = block.histogram(prefix, low, width)
        if low + width == magnitude_bits(dtype):
            refuse_non_finite(histogram[:, infinity_bits(dtype) >> low :])
        digit, rank = descend(histogram, rank)
        prefix = (prefix << width) | digit
    return list(from_bits(prefix, dtype).unbind())


def descend(histogram: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """In each row, the bin that holds the rank-th largest, and that element's rank inside it.

    `histogram` counts, shape (rows, bins); `rank` from 1, shape (rows,); so are the results.
    """
    above = histogram.flip(1).cumsum(1)
    steps = torch.searchsorted(above, rank.unsqueeze(1))
    earlier = above.gather(1, (steps - 1).clamp_(min=0)).masked_fill_(steps == 0, 0)
    return histogram.shape[1] - 1 - steps.squeeze(1), rank - earlier.squeeze(1)


def refuse_non_finite(counts: Tensor) -> None:
    """Raise NonFiniteGradientError where a row of the counts of NaN and infinity has any."""
    bad = counts.any(dim=1).nonzero()
    if bad.numel():
        raise NonFiniteGradientError(index=int(bad[0]))


@final
@dataclass(frozen=True)
class _Block:
    """Magnitude bits of the pools' elements, end to end."""

    bits: Tensor  # int32 or int64, shape (sum of sizes,)
    spare: Tensor  # a buffer like it: fresh memory costs more than the arithmetic
    sizes: list[int]  # of each pool

    @classmethod
    def of(cls, pools: Sequence[Sequence[Tensor]], dtype: torch.dtype) -> _Block:
        """Join all elements."""
        integer, device = INT_OF[dtype], pools[0][0].device
        pieces = [
            flat_view(tensor.detach()).to(device, dtype).view(integer)
            for pool in pools
            for tensor in pool
        ]
        sizes = [sum(tensor.numel() for tensor in pool) for pool in pools]
        # Keys of several pools need more than sixteen bits.
        key = torch.promote_types(integer, torch.int32)
        bits, spare = torch.empty(2, sum(sizes), dtype=key, device=device)
        torch.cat(pieces, out=bits).bitwise_and_(torch.iinfo(integer).max)
        return cls(bits, spare, sizes)

    def beginning_with(self, prefix: Tensor, low: int) -> _Block:
        """The elements whose bits from `low` up are their pool's prefix."""
        leading = torch.bitwise_right_shift(self.bits, low, out=self.spare)
        torch._foreach_sub_(leading.split(self.sizes), prefix.tolist())
        # A cast to bool is several times faster than a comparison of integers.
        places = leading.bool().logical_not_().nonzero().squeeze(1)
        ends = torch.tensor(self.sizes, device=places.device).cumsum(0)
        counts = [0, *torch.searchsorted(places, ends).tolist()]
        sizes = [after - before for before, after in pairwise(counts)]
        return _Block(self.bits[places], self.spare[: places.numel()], sizes)

    def histogram(self, prefix: Tensor, low: int, width: int) -> Tensor:
        """How often each value of the next `width` bits occurs: int64, (pools, 2**width).

        All elements begin with their pool's prefix.
        """
        keys = torch.bitwise_right_shift(self.bits, low, out=self.spare)
        offsets = [(row - begin) << width for row, begin in enumerate(prefix.tolist())]
        torch._foreach_add_(keys.split(self.sizes), offsets)
        counts = torch.bincount(keys, minlength=len(self.sizes) << width)
        return counts.view(len(self.sizes), -1)
