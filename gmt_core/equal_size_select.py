"""Exact thresholds of several equally large tensors at once, each a row of one block of memory.

Small tensors are selected from directly. Of others the upper 15 bits of the magnitudes, the keys,
are searched: a sample proposes two bounds, counts of whole rows prove or correct them, and
interpolation closes in. Only elements that share their key with the answer are looked at in full.
All of it takes the same few operations however many tensors there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from gmt_core.bracket_select import bracketed_select
from gmt_core.errors import NonFiniteGradientError
from gmt_core.flat import INT_OF, infinity_bits, true_places
from gmt_core.magnitudes import Magnitudes
from gmt_core.stream_counter import Scanner

_MOST: Final = 1 << 20  # elements of one call
_DIRECT: Final = 1 << 12  # elements of a tensor up to which nothing but a selection is worth it
_SAMPLED: Final = 1 << 10
_DEVIATIONS: Final = 2.5  # of the sampled rank; a miss costs more counts, never exactness
_RUN: Final = 1 << 13  # elements; rows are whole runs, and a run's count fits into 16 bits
_ALIKE: Final = 16  # where more than one element in so many shares the answer's key


def together(size: int, dtype: torch.dtype) -> int:
    """How many tensors of that size one call may have, in about 8 MiB; 0 of those too large."""
    if size <= _DIRECT:  # torch's selection takes twelve bytes more for each element
        return max(1, (_most(dtype) >> 2) // max(1, size))
    return _most(dtype) // _width(size)


def _most(dtype: torch.dtype) -> int:
    return min(_MOST, (4 * _MOST) // dtype.itemsize)


def _width(size: int) -> int:
    """Of a row: whole runs."""
    return -(-size // _RUN) * _RUN


@final
class EqualSizes:
    """Selects from any number of tensors, a few at once, in memory that is used again."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        """Of tensors whose magnitudes are compared in that dtype, on that device."""
        # Fresh memory costs more than the arithmetic.
        self._dtype, most = dtype, max(_most(dtype), _DIRECT)
        self._wide = torch.empty(most, dtype=INT_OF[dtype], device=device)
        self._keys, self._spare = torch.empty(2, most, dtype=torch.int16, device=device).unbind()

    @torch.no_grad()
    def select(self, tensors: Sequence[Magnitudes], kept: int) -> list[int]:
        """The bits of the exact `kept`-th largest magnitude of each, all of one size.

        Raises NonFiniteGradientError with a tensor's index.
        """
        size = tensors[0].numel
        if size <= _DIRECT:
            bits = self._wide[: len(tensors) * size].view(len(tensors), size)
            for row, tensor in zip(bits, tensors, strict=True):
                tensor.bits(slice(None), out=row)
            _check_finite(bits, infinity_bits(self._dtype))
            return [int(v) for v in bits.kthvalue(size - kept + 1, dim=1).values.tolist()]
        shift = self._dtype.itemsize * 8 - 16
        keys = self._rows(tensors, size, shift)
        _check_finite(keys, infinity_bits(self._dtype) >> shift)
        answers = self._search(keys, size, kept)
        if not shift:
            return [answer.low for answer in answers]
        return self._refine(tensors, keys, answers, kept)

    def _rows(self, tensors: Sequence[Magnitudes], size: int, shift: int) -> Tensor:
        """The keys, shape (tensors, whole runs); what is added lies below all."""
        width = _width(size)
        keys = self._keys[: len(tensors) * width].view(len(tensors), width)
        for row, tensor in zip(keys[:, :size], tensors, strict=True):
            if shift:
                upper = self._wide[:size]
                torch.bitwise_right_shift(tensor.signed_bits(), shift, out=upper)
                row.copy_(upper)
            else:
                torch.bitwise_and(tensor.signed_bits(), 0x7FFF, out=row)
        if shift:
            keys.bitwise_and_(0x7FFF)
        keys[:, size:] = -1
        return keys

    def _search(self, keys: Tensor, size: int, kept: int) -> list[_Answer]:
        """Each row's `kept`-th largest key."""
        infinity = torch.iinfo(torch.int16).max
        answers = [_Answer(0, infinity, size, 0) for _ in keys]
        guesses, step = _bounds(keys, size, kept), 0
        while any(answer.high - answer.low > 1 for answer in answers):
            probes = [answer.probe(kept, step % 3 == 2) for answer in answers]
            bound = guesses.pop() if guesses else torch.tensor(probes, dtype=keys.dtype)
            bound, step = bound.to(keys.device), step + 1
            reached = self._reach(keys, bound)
            for answer, key, reach in zip(answers, bound.tolist(), reached, strict=True):
                answer.learn(key, reach, kept)
        return answers

    def _reach(self, keys: Tensor, bound: Tensor) -> list[int]:
        """How many of each row's keys are at least the row's bound."""
        # An integer result is several times faster than one of bools.
        spare = self._spare[: keys.numel()].view(keys.shape)
        reached = torch.ge(keys, bound.unsqueeze(1), out=spare).view(len(keys), -1, _RUN)
        return [int(count) for count in reached.sum(2, dtype=torch.int16).sum(1).tolist()]

    def _refine(
        self, tensors: Sequence[Magnitudes], keys: Tensor, answers: Sequence[_Answer], kept: int
    ) -> list[int]:
        """Select among the elements of each tensor that have its answer's key."""
        alike = [answer.reach_low - answer.reach_high for answer in answers]
        few = [number <= keys.shape[1] // _ALIKE for number in alike]
        wanted = [answer.low if small else -2 for answer, small in zip(answers, few, strict=True)]
        key = torch.tensor(wanted, dtype=keys.dtype, device=keys.device).unsqueeze(1)
        spare = self._spare[: keys.numel()].view(keys.shape)
        same = self._wide.view(torch.bool)[: keys.numel()].view(keys.shape)
        same.copy_(torch.eq(keys, key, out=spare))
        places = true_places(same.view(-1)).split(
            [number if small else 0 for number, small in zip(alike, few, strict=True)]
        )
        results = []
        for row, (tensor, answer) in enumerate(zip(tensors, answers, strict=True)):
            if few[row]:
                rank = alike[row] - (kept - answer.reach_high) + 1
                bits = tensor.bits(places[row] - row * keys.shape[1])
                results.append(int(bits.kthvalue(rank).values))
            else:
                results.append(bracketed_select([tensor], kept, Scanner(self._dtype)))
        return results


@final
@dataclass
class _Answer:
    """A key that is proven to be one of low, ..., high - 1, and how many keys reach either."""

    low: int
    high: int
    reach_low: int
    reach_high: int

    def learn(self, key: int, reach: int, kept: int) -> None:
        """Narrow by how many reach a key."""
        if reach >= kept and key >= self.low:
            self.low, self.reach_low = key, reach
        elif reach < kept and key <= self.high:
            self.high, self.reach_high = key, reach

    def probe(self, kept: int, halve: bool) -> int:
        """Which key to count next; `low` where the answer is found."""
        if halve:
            return (self.low + self.high) // 2
        share = (self.reach_low - kept) / max(1, self.reach_low - self.reach_high)
        between = self.low + round(share * (self.high - self.low))
        return max(self.low, min(max(between, self.low + 1), self.high - 1))


def _check_finite(rows: Tensor, infinity: int) -> None:
    if int(rows.amax()) >= infinity:
        raise NonFiniteGradientError(index=(rows.amax(1) < infinity).tolist().index(False))


def _bounds(keys: Tensor, size: int, kept: int) -> list[Tensor]:
    """Two guesses for every row, the answer likely between them."""
    # An odd step visits the rows and columns of common shapes evenly.
    sample = keys[:, : size : (size // _SAMPLED) | 1].sort(dim=1).values
    number, share = sample.shape[1], 1.0 - kept / size
    spread = _DEVIATIONS * math.sqrt(number * share * (1.0 - share)) + 1.0
    places = (math.floor(number * share - spread), math.ceil(number * share + spread))
    return [sample[:, min(max(place, 0), number - 1)] for place in places]
