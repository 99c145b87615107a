"""The order of examples: a pure function of the seed and the position in the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch


@final
class DataOrder:
    """An endless stream of seeded permutations of `count` examples, one per epoch.

    Update `u` with effective batch B uses positions [u*B, (u+1)*B) for any number of workers or
    micro-batches, so these never change what a model sees.
    """

    def __init__(self, count: int, seed: int) -> None:
        """Order `count` >= 1 examples by `seed`."""
        self._count = count
        self._seed = seed
        self._epoch = -1
        self._permutation: list[int] = []

    def batch(self, update: int, size: int) -> list[int]:
        """The `size` example indices of the 0-based `update`."""
        return [self._at(position) for position in range(update * size, (update + 1) * size)]

    def _at(self, position: int) -> int:
        epoch, offset = divmod(position, self._count)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mixed_seed(self._seed, epoch))
            self._permutation = torch.randperm(self._count, generator=generator).tolist()
            self._epoch = epoch
        return self._permutation[offset]


def share(
    batch: Sequence[int], lengths: Sequence[int], *, micro: int, rank: int, workers: int
) -> list[list[int]]:
    """The micro-batches of `rank`: `len(batch) / (micro * workers)` lists of `micro` indices.

    The effective batch is first sorted by length, so that micro-batches need little padding and
    ranks do equal work. The loss is a token sum over the whole effective batch, so the grouping
    does not change the gradient.
    """
    grouped = sorted(batch, key=lambda index: (lengths[index], index))
    chunks = [grouped[start : start + micro] for start in range(0, len(grouped), micro)]
    return chunks[rank::workers]


def mixed_seed(*parts: int) -> int:
    """One 63-bit seed from several integers (the splitmix64 finaliser applied to each in turn)."""
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return state >> 1
