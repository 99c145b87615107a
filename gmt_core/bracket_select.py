"""The exact threshold of one large pool in a single pass, when a sample guesses well.

The sample proposes a narrow interval. One pass counts what lies above it and gathers what lies in
it. Where the interval holds the answer, which that count proves, the gathered few decide, or
their histogram where they are too many. Otherwise the search starts from all magnitudes.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from gmt_core.block_counter import Block
from gmt_core.flat import magnitude_bits
from gmt_core.magnitudes import LocalPool
from gmt_core.radix import DIGIT_BITS, Intervals, descend, narrow, radix_select
from gmt_core.stream_counter import Interval, Scanner, Stream

_HELD: Final = 1 << 21  # bytes of the integers gathered at most; selecting takes as many again
_LEAST: Final = 1 << 13  # elements of the sample
_MOST: Final = 1 << 17
_DEVIATIONS: Final = 3.0  # of the sampled rank; a miss costs more passes, never exactness


@torch.no_grad()
def bracketed_select(pool: LocalPool, kept: int, scanner: Scanner) -> int:
    """The bits of the exact `kept`-th largest magnitude; NonFiniteGradientError on NaN or inf."""
    dtype, numel = scanner.dtype, sum(member.numel for member in pool)
    interval = _bracket(_sample(pool, numel), kept, numel, dtype)
    seen = scanner.scan(pool, interval, most=_HELD // max(4, dtype.itemsize), check=True)
    rank = kept - seen.above
    if not 1 <= rank <= seen.inside:
        return int(radix_select(Stream([pool], scanner), [kept], dtype))
    if not interval.width:
        return interval.low
    if seen.histogram is None:
        # A pool may lie on several devices.
        inside = torch.cat([piece.to(seen.pieces[0].device) for piece in seen.pieces])
        inside.sub_(interval.low)
        seen.pieces.clear()
        return interval.low + _largest(inside, rank, interval.width)
    digit, left = descend(seen.counts().unsqueeze(0), torch.tensor([rank]))
    intervals = Intervals(torch.tensor([interval.low]), interval.width)
    return int(narrow(Stream([pool], scanner), intervals.bin(digit, interval.bin_width), left))


def _largest(bits: Tensor, rank: int, width: int) -> int:
    """The rank-th largest of some integers of that many bits, which are overwritten."""
    wide = bits.to(torch.promote_types(bits.dtype, torch.int32))
    block = Block(wide, [wide.numel()], width)
    return int(narrow(block, Intervals(torch.zeros(1, dtype=torch.int64), width), [rank]))


def _sample(pool: LocalPool, numel: int) -> Tensor:
    """Bits of every so-many-th element of each member."""
    # An odd step visits the rows and columns of common shapes evenly.
    step = max(1, numel // min(max(numel >> 7, _LEAST), _MOST)) | 1
    picks = [member.bits(slice(None, None, step)) for member in pool if member.numel]
    return torch.cat([pick.to(picks[0].device) for pick in picks])


def _bracket(sample: Tensor, kept: int, numel: int, dtype: torch.dtype) -> Interval:
    """An interval that holds the answer in all likelihood, and little else."""
    size, share, every = sample.numel(), kept / numel, magnitude_bits(dtype)
    spread = _DEVIATIONS * math.sqrt(size * share * (1.0 - share)) + 2.0
    first, last = math.floor(share * size - spread), math.ceil(share * size + spread)
    high = _largest(sample.clone(), first, every) if first > 0 else int(sample.amax())
    low = _largest(sample.clone(), last, every) if last <= size else 0
    width = round(math.log2(max(high - low, 0) + 1))
    start = max(0, (low + high + 1 - (1 << width)) // 2)
    return Interval(start, width, max(0, width - DIGIT_BITS))
