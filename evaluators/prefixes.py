"""Which sequences begin alike, so that what they share is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# A prefix of its own costs a forward and a smaller batch: it must save this many tokens.
LEAST_SAVING = 512


@dataclass(frozen=True)
class Cluster:
    """Sequences, by index, whose first `shared` tokens are equal; each is longer than that."""

    members: tuple[int, ...]
    shared: int


def shared_prefixes(rows: Sequence[Sequence[int]]) -> list[Cluster]:
    """Every index of `rows` in exactly one cluster; shared is 0 where sharing would not pay.

    Few-shot prompts of one task, or samples of one prompt, come out as one cluster each. Rows
    must not be empty.
    """
    order = sorted(range(len(rows)), key=lambda index: (tuple(rows[index]), index))
    sequences = [tuple(rows[index]) for index in order]
    common = [_common(first, second) for first, second in pairwise(sequences)]
    return [
        Cluster(tuple(order[place] for place in places), shared)
        for places, shared in _split(0, len(order), common)
    ]


def _split(low: int, high: int, common: Sequence[int]) -> list[tuple[list[int], int]]:
    """Clusters of the sorted places [low, high) and how many tokens each shares.

    `common[i]` is what place i shares with place i + 1. Runs that share enough more than the
    whole become clusters of their own, the rest stays together.
    """
    if low == high:
        return []
    shared = min(common[low : high - 1], default=0)
    ends = [i + 1 for i in range(low, high - 1) if common[i] == shared]
    found: list[tuple[list[int], int]] = []
    rest: list[int] = []
    for start, end in pairwise([low, *ends, high]):
        more = min(common[start : end - 1], default=0) - shared
        if ends and (end - start - 1) * more >= LEAST_SAVING:
            found += _split(start, end, common)
        else:
            rest += range(start, end)
    if rest:
        pays = (len(rest) - 1) * shared >= LEAST_SAVING
        found.append((rest, shared if pays else 0))
    return found


def _common(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """How many leading tokens are equal, leaving both at least one of their own."""
    low, high = 0, min(len(first), len(second)) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
