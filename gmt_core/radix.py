"""The one idea behind every threshold: counts of magnitudes narrow an interval to its answer.

The bits of |g|, read as integers, sort as the magnitudes do. Each round divides the interval that
holds a pool's answer into bins, counts the pool's elements in each, and goes on with the bin in
which the wanted rank lies, until the interval is one integer. Only counts are needed, and counts
add up over chunks, tensors and ranks. So whoever can count can select exactly: small pools end to
end (`block_counter`), large ones in chunks (`stream_counter`), CUDA's (`kernels`), and pools that
several ranks hold (`selection`), whose counts alone travel. A sample may propose the first
interval (`bracket_select`), or bounds that counts of whole rows then close in on
(`equal_size_select`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from gmt_core.errors import NonFiniteGradientError
from gmt_core.flat import infinity_bits, magnitude_bits

DIGIT_BITS: Final = 11  # of one round: infinity then starts a bin of its own in every dtype


@final
@dataclass(frozen=True)
class Intervals:
    """For each pool the integers low, low + 1, ..., low + 2**width - 1."""

    low: Tensor  # int64, shape (pools,)
    width: int

    @classmethod
    def of_all(cls, pools: int, dtype: torch.dtype) -> Intervals:
        """All magnitudes of a dtype, for so many pools."""
        return cls(torch.zeros(pools, dtype=torch.int64), magnitude_bits(dtype))

    def bin(self, digits: Tensor, bin_width: int) -> Intervals:
        """Of each pool the bin of that number, counted from the lowest."""
        return Intervals(self.low.to(digits.device) + (digits << bin_width), bin_width)


class Counter(ABC):
    """Pools of elements whose magnitudes can be counted."""

    digit_bits: int = DIGIT_BITS  # into how many bins a round divides: 2**digit_bits

    @abstractmethod
    def histogram(self, intervals: Intervals, bin_width: int) -> Tensor:
        """How many elements of each pool lie in each bin of 2**bin_width integers.

        int64, shape (pools, 2**(width - bin_width)), on any device. Each call's intervals lie
        inside those of the call before, so that a counter may forget what lies outside.
        """


@torch.no_grad()
def narrow(counter: Counter, intervals: Intervals, rank: Sequence[int] | Tensor) -> Tensor:
    """The `rank[i]`-th largest integer of pool i, from 1, among those in its interval.

    int64, shape (pools,).
    """
    rank = torch.as_tensor(rank, dtype=torch.int64)
    while intervals.width:
        bin_width = max(0, intervals.width - counter.digit_bits)
        digits, rank = descend(counter.histogram(intervals, bin_width), rank)
        intervals = intervals.bin(digits, bin_width)
    return intervals.low


@torch.no_grad()
def radix_select(counter: Counter, kept: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The bits of the exact `kept[i]`-th largest magnitude of each pool: int64, shape (pools,).

    Raises NonFiniteGradientError with the index of the first pool that holds NaN or infinity.
    """
    intervals = Intervals.of_all(len(kept), dtype)
    bin_width = intervals.width - counter.digit_bits
    histogram = counter.histogram(intervals, bin_width)
    bad = histogram[:, infinity_bits(dtype) >> bin_width :].any(dim=1).nonzero()
    if bad.numel():
        raise NonFiniteGradientError(index=int(bad[0]))
    digits, rank = descend(histogram, torch.tensor(kept))
    return narrow(counter, intervals.bin(digits, bin_width), rank)


def descend(histogram: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """In each row, the bin that holds the rank-th largest, and that element's rank inside it.

    `histogram` counts, shape (rows, bins); `rank` from 1, shape (rows,); so are the results.
    """
    rank = rank.to(histogram.device)
    above = histogram.flip(1).cumsum(1)
    steps = torch.searchsorted(above, rank.unsqueeze(1))
    earlier = above.gather(1, (steps - 1).clamp_(min=0)).masked_fill_(steps == 0, 0)
    return histogram.shape[1] - 1 - steps.squeeze(1), rank - earlier.squeeze(1)
