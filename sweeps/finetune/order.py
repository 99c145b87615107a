"""The order of examples: a pure function of the seed and the position in the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple, final

import torch

from sweeps.finetune.packing import first_fit


class Share(NamedTuple):
    """The number of examples of a source, and how many of them are in an epoch."""

    size: int
    quota: int


@final
class DataOrder:
    """An endless stream of seeded permutations of `count` examples, one per epoch.

    Update `u` with effective batch B uses positions [u*B, (u+1)*B) for any number of workers or
    micro-batches, so these never change what a model sees.
    """

    def __init__(self, count: int, seed: int, mixture: Sequence[Share] = ()) -> None:
        """Order `count` >= 1 examples by `seed`.

        `mixture`: the consecutive sources that they come from. An epoch then has the quota of
        each source, and continues where the last epoch ended in that source's own order.
        """
        self._count = count
        self._seed = seed
        self._epoch = -1
        self._examples: list[int] = []
        starts = accumulate((share.size for share in mixture), initial=0)
        self._sources = [
            (start, share.quota, DataOrder(share.size, mixed_seed(seed, 2, number)))
            for number, (start, share) in enumerate(zip(starts, mixture, strict=False))
        ]

    def batch(self, update: int, size: int) -> list[int]:
        """The `size` example indices of the 0-based `update`."""
        return [self._at(position) for position in range(update * size, (update + 1) * size)]

    def _at(self, position: int) -> int:
        epoch, offset = divmod(position, self._count)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mixed_seed(self._seed, epoch))
            chosen = self._chosen(epoch)
            permutation = torch.randperm(self._count, generator=generator).tolist()
            self._examples = [chosen[place] for place in permutation]
            self._epoch = epoch
        return self._examples[offset]

    def _chosen(self, epoch: int) -> Sequence[int]:
        """The examples of an epoch."""
        if not self._sources:
            return range(self._count)
        return [
            start + index
            for start, quota, order in self._sources
            for index in order.batch(epoch, quota)
        ]


Rows = list[list[int]]
"""Examples by index, one or several in a row."""


def share(
    batch: Sequence[int],
    lengths: Sequence[int],
    *,
    micro: int,
    rank: int,
    workers: int,
    pack_to: int | None = None,
    unpadded: bool = False,
) -> list[Rows]:
    """The micro-batches of `rank`, each of at most `micro` rows; `workers` divides the batch.

    A row holds one example, or, with `pack_to`, as many of the whole effective batch as fit into
    that many tokens. All ranks get the same number of micro-batches and rows. The rows are sorted
    by length first, so that micro-batches need little padding and ranks do equal work. With
    `unpadded`, a micro-batch is one row of up to `micro` * `pack_to` tokens, and all have similar
    numbers of tokens, since the largest determines the peak memory. The loss is a token sum over
    the effective batch, so the grouping does not change the gradient.
    """
    indices = sorted(batch, key=lambda index: (lengths[index], index))
    rows = [[index] for index in indices]
    if pack_to is not None:
        if unpadded:
            rows, micro = _balanced(indices, lengths, micro * pack_to, workers), 1
        else:
            rows = _packed(indices, lengths, pack_to, workers)
        rows.sort(key=lambda row: sum(lengths[index] for index in row))
    each = len(rows) // workers
    count = -(-each // micro)
    bounds = [each * number // count for number in range(count + 1)]
    starts = [
        (start * workers + rank * (end - start), end - start) for start, end in pairwise(bounds)
    ]
    return [rows[start : start + size] for start, size in starts]


def _packed(indices: Sequence[int], lengths: Sequence[int], pack_to: int, workers: int) -> Rows:
    """The examples in rows of up to `pack_to` tokens, as many as a multiple of `workers`."""
    packed = first_fit([lengths[index] for index in indices], pack_to)
    rows = [[indices[place] for place in row] for row in packed]
    while len(rows) % workers:
        largest = max(rows, key=len)
        rows.append([largest.pop() for _ in range(len(largest) // 2)])
    return rows


def _balanced(indices: Sequence[int], lengths: Sequence[int], room: int, workers: int) -> Rows:
    """The examples in the fewest rows of up to `room` tokens, equally full (longest first)."""
    count = workers * math.ceil(sum(lengths[index] for index in indices) / (workers * room))
    while True:
        rows: Rows = [[] for _ in range(count)]
        tokens = [0] * count
        for index in reversed(indices):
            place = tokens.index(min(tokens))
            rows[place].append(index)
            tokens[place] += lengths[index]
        if max(tokens) <= room or count >= len(indices):
            return rows
        count += workers


def mixed_seed(*parts: int) -> int:
    """One 63-bit seed from several integers (the splitmix64 finaliser applied to each in turn)."""
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return state >> 1
