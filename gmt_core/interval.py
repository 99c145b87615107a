"""The exact threshold of one large pool: an interval of magnitudes, narrowed pass by pass.

The bits of |g|, read as integers, sort as the magnitudes do. A sample proposes an interval of
them; one pass counts what lies above it and gathers what lies in it. Where the interval holds the
answer, which that count proves, the gathered few decide; otherwise all magnitudes are the next
interval. Where too many lie inside to gather, their histogram gives a narrower one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, final

import torch
from torch import Tensor

from gmt_core.errors import NonFiniteGradientError
from gmt_core.flat import INT_OF, chunk_size, infinity_bits, magnitude_bits
from gmt_core.radix import DIGIT_BITS, descend

_GATHERED: Final = 1 << 19  # most elements gathered: 2 MiB, and 6 MiB while selecting
_LEAST: Final = 1 << 13  # elements of the sample
_MOST: Final = 1 << 17
_DEVIATIONS: Final = 3.0  # of the sampled rank; a miss costs one more pass, never exactness


@dataclass(frozen=True)
class Interval:
    """The magnitude bits low, low + 1, ..., low + 2**width - 1."""

    low: int
    width: int

    def bin(self, digit: int) -> Interval:
        """The part that the histogram's bin of that number counts."""
        width = self.bin_width
        return Interval(self.low + (digit << width), width)

    @property
    def bin_width(self) -> int:
        """Of the (at most 2048) bins into which a histogram divides the interval."""
        return max(0, self.width - DIGIT_BITS)

    def histogram(self, bits: Tensor) -> Tensor:
        """How many of `bits`, all of them inside, lie in each bin: int64, shape (bins,)."""
        keys = (bits - self.low) >> self.bin_width
        return torch.bincount(keys, minlength=1 << (self.width - self.bin_width))


@dataclass
class _Seen:
    """What one pass found: counts, and the elements inside, or their histogram if too many."""

    interval: Interval
    below: int = 0
    inside: int = 0
    pieces: list[Tensor] = field(default_factory=list)
    held: int = 0
    histogram: Tensor | None = None

    def add(self, bits: Tensor) -> None:
        """Take in some elements inside."""
        self.inside += bits.numel()
        self.held += bits.numel()
        self.pieces.append(bits)
        if self.held > _GATHERED:
            self.histogram = self.counts()
            self.pieces, self.held = [], 0

    def counts(self) -> Tensor:
        """The histogram of all elements inside."""
        histogram = self.histogram
        for piece in self.pieces:
            more = self.interval.histogram(piece)
            histogram = more if histogram is None else histogram + more.to(histogram.device)
        assert histogram is not None, "no element lies inside"
        return histogram


def select_bits(chunks: Chunks, kept: int) -> int:
    """The bits of the exact `kept`-th largest magnitude; NonFiniteGradientError on NaN or inf."""
    everything = Interval(0, magnitude_bits(chunks.dtype))
    seen = chunks.scan(_bracket(chunks, kept), check=True)
    above = chunks.numel - seen.below - seen.inside
    if not above < kept <= above + seen.inside:
        seen, above = chunks.scan(everything), 0
    rank = kept - above
    while seen.histogram is not None:
        digit, rank = _descend(seen.counts(), rank)
        interval = seen.interval.bin(digit)
        if not interval.width:
            return interval.low
        seen = chunks.scan(interval)
    if not seen.interval.width:
        return seen.interval.low
    return _select_held(torch.cat(seen.pieces), seen.interval, rank)


def _select_held(bits: Tensor, interval: Interval, rank: int) -> int:
    """The rank-th largest of some integers that all lie inside the interval."""
    while interval.width:
        digit, rank = _descend(interval.histogram(bits), rank)
        interval = interval.bin(digit)
        bits = bits[((bits - interval.low) >> interval.width) == 0]
    return interval.low


def _descend(histogram: Tensor, rank: int) -> tuple[int, int]:
    digit, left = descend(histogram.unsqueeze(0), histogram.new_tensor([rank]))
    return int(digit), int(left)


def _bracket(chunks: Chunks, kept: int) -> Interval:
    """An interval that holds the answer in all likelihood, and little else."""
    sample = chunks.sample()
    size, share = sample.numel(), kept / chunks.numel
    spread = _DEVIATIONS * math.sqrt(size * share * (1.0 - share)) + 2.0
    everything = Interval(0, magnitude_bits(chunks.dtype))
    first, last = math.floor(share * size - spread), math.ceil(share * size + spread)
    high = _select_held(sample, everything, first) if first > 0 else int(sample.amax())
    low = _select_held(sample, everything, last) if last <= size else 0
    width = round(math.log2(max(high - low, 0) + 1))
    return Interval(max(0, (low + high + 1 - (1 << width)) // 2), width)


@final
class Chunks:
    """Flat tensors as chunks of magnitude bits, in buffers that every chunk uses again."""

    def __init__(self, flats: Sequence[Tensor], dtype: torch.dtype) -> None:
        self.flats, self.dtype = flats, dtype
        self.numel = sum(flat.numel() for flat in flats)
        self._integer = INT_OF[dtype]
        self._most = torch.iinfo(self._integer).max

    def sample(self) -> Tensor:
        """Bits of every so-many-th element."""
        # An odd step visits the rows and columns of common shapes evenly.
        step = max(1, self.numel // min(max(self.numel >> 7, _LEAST), _MOST)) | 1
        picks = [flat[::step].to(self.dtype) for flat in self.flats]
        joined = torch.cat([pick.to(picks[0].device) for pick in picks])
        return joined.view(self._integer) & self._most

    def scan(self, interval: Interval, check: bool = False) -> _Seen:
        """One pass around the interval; with `check`, NaN and infinity are looked for."""
        seen = _Seen(interval)
        for bits, spare, mask in self._bits():
            if check and int(bits.amax()) >= infinity_bits(self.dtype):
                raise NonFiniteGradientError
            if interval.width == magnitude_bits(self.dtype):
                seen.add(bits.clone())
            else:
                _look(bits, spare, mask, seen)
        return seen

    def _bits(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Magnitude bits of consecutive elements, with two buffers: of their dtype, and bool."""
        buffers: dict[torch.device, tuple[Tensor, Tensor]] = {}
        for flat in self.flats:
            device, size = flat.device, chunk_size(flat.device)
            if device not in buffers:
                mask = torch.empty(size, dtype=torch.bool, device=device)
                buffers[device] = mask.new_empty((2, size), dtype=self._integer), mask
            integers, mask = buffers[device]
            for chunk in flat.split(size):
                bits, spare = integers[:, : chunk.numel()]
                values = chunk.to(self.dtype).view(self._integer)
                torch.bitwise_and(values, self._most, out=bits)
                yield bits, spare, mask[: chunk.numel()]


def _look(bits: Tensor, spare: Tensor, mask: Tensor, seen: _Seen) -> None:
    """Count and gather one chunk."""
    # Shifts and casts to bool are several times faster than comparisons of integers.
    interval = seen.interval
    torch.sub(bits, interval.low, out=spare)  # never overflows: neither is negative
    inside = mask.copy_(spare.bitwise_right_shift_(interval.width)).logical_not_()
    if not interval.width:
        seen.inside += _count(inside)
    elif bits.numel() % 8:
        seen.add(bits[inside])
    else:
        # Most runs of eight hold nothing: look at them as one integer each.
        near = bits.view(-1, 8)[inside.view(torch.int64).nonzero().squeeze(1)].view(-1)
        seen.add(near[((near - interval.low) >> interval.width).bool().logical_not_()])
    seen.below += _count(mask.copy_(spare.bitwise_right_shift_(spare.element_size() * 8 - 1)))


def _count(mask: Tensor) -> int:
    """How many are true; eight at a time as the bytes of an integer, at most 128 times each."""
    if mask.numel() % 1024:
        return int(mask.count_nonzero())
    return int(mask.view(torch.int64).view(128, -1).sum(0).view(torch.uint8).sum())
