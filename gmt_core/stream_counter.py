"""Counts of pools of any size: their elements pass by in chunks, once for each round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, final

import torch
from torch import Tensor

from gmt_core.errors import NonFiniteGradientError
from gmt_core.flat import INT_OF, count_true, infinity_bits, magnitude_bits
from gmt_core.magnitudes import LocalPool
from gmt_core.radix import Counter, Intervals

_CHUNK: Final = 1 << 21  # bytes of magnitudes: fewer would cost more in calls than the cache saves
_RUN: Final = 1024  # elements: what is counted and chosen in whole integers of eight bytes


@final
class Stream(Counter):
    """Takes about 6 MiB however large the pools are."""

    def __init__(self, pools: Sequence[LocalPool], scanner: Scanner) -> None:
        """Pools whose magnitudes are compared in the scanner's dtype."""
        self._pools, self._scanner = pools, scanner

    def histogram(self, intervals: Intervals, bin_width: int) -> Tensor:
        """Scan one pool after the other."""
        rows = [
            self._scanner.scan(pool, Interval(low, intervals.width, bin_width)).counts()
            for pool, low in zip(self._pools, intervals.low.tolist(), strict=True)
        ]
        return torch.stack(rows)


@final
@dataclass(frozen=True)
class Interval:
    """The integers low, ..., low + 2**width - 1, in bins of 2**bin_width."""

    low: int
    width: int
    bin_width: int

    @property
    def last(self) -> int:
        """The largest of them."""
        return self.low + (1 << self.width) - 1


@final
@dataclass
class Seen:
    """What one pass found: counts, and either the elements inside or their histogram."""

    interval: Interval
    most: int  # elements to hold; once there are more, they are counted into the histogram
    above: int = 0
    inside: int = 0
    pieces: list[Tensor] = field(default_factory=list)
    held: int = 0
    histogram: Tensor | None = None

    def add(self, bits: Tensor) -> None:
        """Take in some elements inside."""
        self.inside += bits.numel()
        self.held += bits.numel()
        self.pieces.append(bits)
        if self.held > self.most:
            self.histogram = self.counts()
            self.pieces, self.held = [], 0

    def counts(self) -> Tensor:
        """How many of the elements inside lie in each bin: int64, shape (bins,), on the CPU."""
        interval = self.interval
        bins = 1 << (interval.width - interval.bin_width)
        found = torch.zeros(bins, dtype=torch.int64) if self.histogram is None else self.histogram
        for piece in self.pieces:
            keys = (piece - interval.low) >> interval.bin_width
            found = found + torch.bincount(keys, minlength=bins).cpu()
        return found


@final
@dataclass(frozen=True)
class _Buffers:
    """Memory that every chunk on a device uses again."""

    bits: Tensor
    spare: Tensor  # of the same integer dtype
    reached: Tensor  # bool: at or above the interval's first
    above: Tensor  # bool: above its last

    @classmethod
    def of(cls, size: int, integer: torch.dtype, device: torch.device) -> _Buffers:
        """For chunks of at most that many elements."""
        size = -(-size // _RUN) * _RUN  # each buffer begins where whole integers can be read
        bits, spare = torch.empty(2, size, dtype=integer, device=device)
        reached, above = torch.empty(2, size, dtype=torch.bool, device=device)
        return cls(bits, spare, reached, above)

    def first(self, number: int) -> _Buffers:
        """Their first elements."""
        return _Buffers(*(buffer[:number] for buffer in vars(self).values()))


@final
class Scanner:
    """Passes over pools, with buffers that every chunk and every pool uses again."""

    def __init__(self, dtype: torch.dtype) -> None:
        """Of pools whose magnitudes are compared in that dtype."""
        self.dtype = dtype
        self._buffers: dict[torch.device, _Buffers] = {}

    def scan(
        self, pool: LocalPool, interval: Interval, most: int = 0, check: bool = False
    ) -> Seen:
        """Pass over a pool once, holding at most about `most` elements.

        With `check` NaN and infinity raise NonFiniteGradientError.
        """
        seen = Seen(interval, most)
        everything = not interval.low and interval.width == magnitude_bits(self.dtype)
        for bits, buffers in self._chunks(pool):
            if check and int(bits.amax()) >= infinity_bits(self.dtype):
                raise NonFiniteGradientError
            if everything:
                seen.add(bits.clone() if most else bits)
            else:
                _look(bits, buffers, seen)
        return seen

    def _chunks(self, pool: LocalPool) -> Iterator[tuple[Tensor, _Buffers]]:
        """Magnitude bits of consecutive elements, and the buffers of which they are the first."""
        size = _CHUNK // self.dtype.itemsize
        for member in pool:
            whole = member.numel - member.numel % _RUN
            for start, stop in pairwise([*range(0, whole, size), whole, member.numel]):
                if start < stop:
                    buffers = self._of(member.device, min(size, member.numel)).first(stop - start)
                    yield member.bits(slice(start, stop), out=buffers.bits), buffers

    def _of(self, device: torch.device, number: int) -> _Buffers:
        """Buffers of at least that many elements."""
        found = self._buffers.get(device)
        if found is None or found.bits.numel() < number:
            self._buffers[device] = found = _Buffers.of(number, INT_OF[self.dtype], device)
        return found


def _look(bits: Tensor, buffers: _Buffers, seen: Seen) -> None:
    """Count and gather one chunk."""
    # An integer result and a cast to bool are several times faster than a comparison alone.
    interval = seen.interval
    last = min(interval.last, torch.iinfo(bits.dtype).max)
    reached = buffers.reached.copy_(torch.ge(bits, interval.low, out=buffers.spare))
    above = buffers.above.copy_(torch.gt(bits, last, out=buffers.spare))
    seen.above += int(count_true(above))
    if interval.width:
        seen.add(_inside(bits, reached, above))
    else:
        seen.inside += int(count_true(reached.logical_xor_(above)))


def _inside(bits: Tensor, reached: Tensor, above: Tensor) -> Tensor:
    """The elements where only the first mask is true; the first is overwritten."""
    if bits.numel() % _RUN:
        return bits[reached.logical_xor_(above)]
    # Most runs of eight hold none: look at them as one integer each.
    runs = reached.view(torch.int64).bitwise_xor_(above.view(torch.int64)).nonzero().squeeze(1)
    return bits.view(-1, 8)[runs].view(-1)[reached.view(-1, 8)[runs].view(-1)]
