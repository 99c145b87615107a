"""Counts of many small pools at once: their elements laid end to end.

A round costs a handful of operations however many pools there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from gmt_core._compat import add_each, subtract_each
from gmt_core.flat import INT_OF, magnitude_bits
from gmt_core.magnitudes import LocalPool
from gmt_core.radix import Counter, Intervals


@final
class Block(Counter):
    """Takes about 20 bytes for each element and 64 KiB for each pool."""

    def __init__(self, bits: Tensor, sizes: Sequence[int], width: int) -> None:
        """Integers of `width` bits, pool after pool: int32 or int64, shape (sum of sizes,).

        They are overwritten.
        """
        # Fresh memory costs more than the arithmetic.
        self._bits, self._spare, self._sizes = bits, torch.empty_like(bits), list(sizes)
        self._low, self._width = torch.zeros(len(sizes), dtype=torch.int64), width

    @classmethod
    def of(cls, pools: Sequence[LocalPool], dtype: torch.dtype) -> Block:
        """Join the magnitudes of all pools, at least one, on the device of the first."""
        sizes = [sum(member.numel for member in pool) for pool in pools]
        members = [member for pool in pools for member in pool]
        # Numbers of bins of several pools need more than sixteen bits.
        key = torch.promote_types(INT_OF[dtype], torch.int32)
        bits = torch.empty(sum(sizes), dtype=key, device=members[0].device)
        parts = bits.split([member.numel for member in members])
        for part, member in zip(parts, members, strict=True):
            part.copy_(member.bits(slice(None)))
        return cls(bits, sizes, magnitude_bits(dtype))

    def histogram(self, intervals: Intervals, bin_width: int) -> Tensor:
        """Count, after leaving out what lies outside."""
        if intervals.width < self._width:
            self._keep(intervals)
        keys = torch.bitwise_right_shift(self._bits, bin_width, out=self._spare)
        bins = 1 << (intervals.width - bin_width)
        add_each(keys.split(self._sizes), [row * bins for row in range(len(self._sizes))])
        return torch.bincount(keys, minlength=bins * len(self._sizes)).view(-1, bins)

    def _keep(self, intervals: Intervals) -> None:
        """Leave what lies inside, counted from the interval's first integer."""
        low = intervals.low.cpu()
        subtract_each(self._bits.split(self._sizes), (low - self._low).tolist())
        outside = torch.bitwise_right_shift(self._bits, intervals.width, out=self._spare)
        # A cast to bool is several times faster than a comparison of integers.
        places = outside.bool().logical_not_().nonzero().squeeze(1)
        ends = torch.tensor(self._sizes, device=places.device).cumsum(0)
        counts = [0, *torch.searchsorted(places, ends).tolist()]
        self._sizes = [after - before for before, after in pairwise(counts)]
        self._bits, self._spare = self._bits[places], self._spare[: places.numel()]
        self._low, self._width = low, intervals.width
