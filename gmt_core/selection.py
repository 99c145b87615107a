"""Exact thresholds of pools of gradients, also where several ranks hold parts of them.

Counts add up over ranks, so `radix` finds the threshold of a whole gradient where no rank holds
it: only counts travel, and all pools of a batch share each collective. At most 37 KiB of counts
per float32 pool (17 KiB for 16-bit floats, 83 KiB for float64), and as much again for each further
mesh dimension over which it is spread.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, final

import torch
from torch import Tensor

from gmt_core.errors import NonFiniteGradientError
from gmt_core.flat import INT_OF, from_bits
from gmt_core.layout import Spread, all_summed
from gmt_core.local_gradient import LocalGradient
from gmt_core.magnitudes import LocalPool, Saliency
from gmt_core.radix import Counter, Intervals, radix_select
from gmt_core.threshold import counter_of, local_thresholds

_POOLS_AT_ONCE: Final = 128  # their counts take 2 MiB, and four times as much while they add up


@final
@dataclass(frozen=True)
class Pool:
    """Gradients among whose elements the `kept` most salient are sought."""

    members: tuple[LocalGradient, ...]
    kept: int

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the saliencies are compared; ValueError for one without order."""
        dtype = self.members[0].gradient.dtype
        for member in self.members:
            dtype = torch.promote_types(dtype, member.gradient.dtype)
            if member.gradient.dtype not in INT_OF:
                raise ValueError(
                    f"{member.name}: expected a gradient of dtype float16, bfloat16, float32 or "
                    f"float64, found {member.gradient.dtype}"
                )
        return dtype

    @property
    def is_local(self) -> bool:
        """Whether this rank holds all of it."""
        return not any(member.layout.spread.groups for member in self.members)

    def local(self, saliency: Saliency, spread: Spread | None = None) -> LocalPool:
        """What this rank holds of it, or only of its members that are spread in that way."""
        chosen = [m for m in self.members if spread in (None, m.layout.spread)]
        return [member.magnitudes(self.dtype, saliency) for member in chosen]


@final
class Summed(Counter):
    """Counts of pools over all ranks that hold parts of them.

    Members that are spread in the same way share a collective for each round.
    """

    def __init__(self, pools: Sequence[Pool], saliency: Saliency, dtype: torch.dtype) -> None:
        """Every rank must name the same pools, also where its part of one is empty."""
        rows = defaultdict[Spread, list[int]](list)
        for row, pool in enumerate(pools):
            for spread in dict.fromkeys(member.layout.spread for member in pool.members):
                rows[spread].append(row)
        self._number = len(pools)
        self._parts = [
            (spread, chosen, counter_of([pools[i].local(saliency, spread) for i in chosen], dtype))
            for spread, chosen in rows.items()
        ]
        self.digit_bits = min(counter.digit_bits for _, _, counter in self._parts)

    def histogram(self, intervals: Intervals, bin_width: int) -> Tensor:
        """Add up the counts of the ranks, on the CPU."""
        bins, low = 1 << (intervals.width - bin_width), intervals.low.cpu()
        total = torch.zeros(self._number, bins, dtype=torch.int64)
        for spread, rows, counter in self._parts:
            counts = counter.histogram(Intervals(low[rows], intervals.width), bin_width)
            total[rows] += all_summed(counts, spread).cpu()
        return total


@torch.no_grad()
def saliency_thresholds(pools: Sequence[Pool], saliency: Saliency) -> list[Tensor]:
    """The exact `kept`-th largest |g|, or |g * w|, of each pool; no dimensions.

    Raises NonFiniteGradientError with the index of a pool that holds NaN or infinity, on every
    rank that holds a part of it.
    """
    here, spread = list[int](), defaultdict[torch.dtype, list[int]](list)
    for index, pool in enumerate(pools):
        (here if pool.is_local else spread[pool.dtype]).append(index)
    found: dict[int, Tensor] = {}
    # What needs other ranks comes first: an error of this rank alone must not keep them waiting.
    for dtype, indices in spread.items():
        for first in range(0, len(indices), _POOLS_AT_ONCE):
            batch = indices[first : first + _POOLS_AT_ONCE]
            found |= _indexed(batch, partial(_spread, saliency=saliency, dtype=dtype), pools)
    found |= _indexed(here, partial(_local, saliency=saliency), pools)
    return [found[index] for index in range(len(pools))]


def _indexed(
    indices: Sequence[int],
    select: Callable[[Sequence[Pool]], Sequence[Tensor]],
    pools: Sequence[Pool],
) -> dict[int, Tensor]:
    """Select for some of the pools; an error's index counts among all of them."""
    try:
        return dict(zip(indices, select([pools[i] for i in indices]), strict=True))
    except NonFiniteGradientError as error:
        index = None if error.index is None else indices[error.index]
        raise NonFiniteGradientError(str(error), index) from None


def _local(pools: Sequence[Pool], saliency: Saliency) -> list[Tensor]:
    return local_thresholds([pool.local(saliency) for pool in pools], [p.kept for p in pools])


def _spread(pools: Sequence[Pool], saliency: Saliency, dtype: torch.dtype) -> list[Tensor]:
    bits = radix_select(Summed(pools, saliency, dtype), [pool.kept for pool in pools], dtype)
    devices = [pool.members[0].gradient.device for pool in pools]
    values = from_bits(bits, dtype)
    moved = {device: values.to(device).unbind() for device in dict.fromkeys(devices)}
    return [moved[device][place] for place, device in enumerate(devices)]
