"""The exact thresholds of large pools on a GPU: one pass over them, when a sample guesses well.

As `bracket_select` does on the CPU: a sample proposes bounds, one pass counts what lies above them
and gathers what lies inside. Where the counts prove that the answer is inside, the few that were
gathered decide. The other pools, and small ones, are counted digit by digit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Final, final

import torch
from torch import Tensor

from gmt_core.errors import NonFiniteGradientError
from gmt_core.flat import infinity_bits
from gmt_core.magnitudes import LocalPool, plain_pool
from gmt_core.radix import Intervals, narrow, radix_select

_LARGE: Final = 1 << 18  # elements of a pool that is sampled
_LEAST: Final = 1 << 14  # elements of its sample
_MOST: Final = 1 << 23
_DEVIATIONS: Final = 3.0  # of the sampled rank; a miss costs more passes, never exactness
_GATHERED: Final = 1 << 26  # bytes held at once for the elements inside


@final
@dataclass(frozen=True)
class _Guess:
    """Where a pool's answer is expected: between two ranks of its sample, from the largest."""

    place: int  # of the pool
    step: int
    first: int  # 0: the largest finite magnitude
    last: int  # 0: zero
    room: int  # for the elements inside


@torch.no_grad()
def select(
    kernels: ModuleType, pools: Sequence[LocalPool], kept: Sequence[int], dtype: torch.dtype
) -> Tensor:
    """The bits of the exact `kept[i]`-th largest magnitude of each pool: int64, shape (pools,).

    `kernels`: `gmt_core.kernels`. The pools lie on one GPU and have one dtype of at most 32 bits.
    Raises NonFiniteGradientError with the index of a pool that holds NaN or infinity.
    """
    found = torch.zeros(len(pools), dtype=torch.int64, device=pools[0][0].device)
    left = set(range(len(pools)))
    for batch in _batches(kernels, pools, kept, dtype):
        places, bits = _decided(kernels, batch, pools, kept, dtype)
        if places:
            found[places] = bits
            left.difference_update(places)
    if rest := sorted(left):
        try:
            counter = kernels.KernelCounter([pools[place] for place in rest])
            found[rest] = radix_select(counter, [kept[place] for place in rest], dtype)
        except NonFiniteGradientError as error:
            raise NonFiniteGradientError(index=rest[error.index or 0]) from None
    return found


def _decided(
    kernels: ModuleType,
    guesses: Sequence[_Guess],
    pools: Sequence[LocalPool],
    kept: Sequence[int],
    dtype: torch.dtype,
) -> tuple[list[int], Tensor]:
    """The pools whose guess held, and their answers."""
    chosen = [pools[guess.place] for guess in guesses]
    sample = kernels.sampled(chosen, [guess.step for guess in guesses])
    bounds, rooms = _bounds(sample, guesses, dtype), [guess.room for guess in guesses]
    inside, counts = kernels.gathered(chosen, bounds, rooms, infinity_bits(dtype))
    places, ranks, pieces, start = list[int](), list[int](), list[LocalPool](), 0
    for guess, (above, held, bad) in zip(guesses, counts.tolist(), strict=True):
        if bad:
            raise NonFiniteGradientError(index=guess.place)
        if 1 <= (rank := kept[guess.place] - above) <= held <= guess.room:
            places.append(guess.place)
            ranks.append(rank)
            pieces.append(plain_pool([inside[start : start + held].view(dtype)], dtype))
        start += guess.room
    if not places:
        return [], counts.new_empty(0)
    everything = Intervals.of_all(len(places), dtype)
    return places, narrow(kernels.KernelCounter(pieces), everything, ranks)


def _bounds(sample: Tensor, guesses: Sequence[_Guess], dtype: torch.dtype) -> Tensor:
    """The lowest and highest bits of each guess: int32, shape (guesses, 2)."""
    ranks = torch.tensor([[g.last, g.first] for g in guesses], device=sample.device)
    picked = sample.sort(dim=1, descending=True).values.gather(1, (ranks - 1).clamp_(min=0))
    ends = torch.tensor([0, infinity_bits(dtype) - 1], dtype=torch.int32, device=sample.device)
    return torch.where(ranks > 0, picked, ends).contiguous()


def _batches(
    kernels: ModuleType, pools: Sequence[LocalPool], kept: Sequence[int], dtype: torch.dtype
) -> Iterator[list[_Guess]]:
    """Guesses for the large pools, so many at once that the memory for them is bounded."""
    batch, held = list[_Guess](), 0
    for place, pool in enumerate(pools):
        guess = _guess(kernels, place, pool, kept[place], dtype)
        if guess is None or (size := guess.room * dtype.itemsize) > _GATHERED:
            continue
        if batch and held + size > _GATHERED:
            yield batch
            batch, held = [], 0
        batch.append(guess)
        held += size
    if batch:
        yield batch


def _guess(
    kernels: ModuleType, place: int, pool: LocalPool, kept: int, dtype: torch.dtype
) -> _Guess | None:
    numel = sum(member.numel for member in pool)
    if numel < _LARGE:
        return None
    # An odd step visits the rows and columns of common shapes evenly.
    step = max(1, numel // min(max(numel >> 10, _LEAST), _MOST)) | 1
    size, share = kernels.sample_size(pool, step), kept / numel
    spread = _DEVIATIONS * math.sqrt(size * share * (1.0 - share)) + 2.0
    first, last = math.floor(share * size - spread), math.ceil(share * size + spread)
    room = 3 * numel * (last - first) // (2 * size) + 1024
    if dtype.itemsize == 2:  # each value has many elements
        room = max(room, numel >> 4)
    return _Guess(place, step, max(0, first), last if last <= size else 0, min(numel, room))
