"""Decoding token by token, every row until its own end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from evaluators.batching import TokenBudget, left_pad
from evaluators.forward import Forward
from evaluators.prefixes import Cluster

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

Choose = Callable[[Tensor, Sequence[int], int], Tensor]
Output = tuple[list[int], bool]


@dataclass(frozen=True)
class Decoding:
    """How rows go on: `choose(logits, rows, step)` gives tokens, `ends(ids)` says when to stop.

    At most `limit` tokens are generated.
    """

    choose: Choose
    ends: Callable[[Sequence[int]], bool]
    limit: int


def most_likely(logits: Tensor, rows: Sequence[int], step: int) -> Tensor:
    """Greedy decoding: the token [lines] with the largest of `logits` [lines, vocabulary]."""
    return logits.argmax(dim=-1)


@final
class Generator:
    """Generates for many rows: clusters that share a prefix, batches within the budget."""

    def __init__(
        self, forward: Forward, budget: TokenBudget, batch_size: int | None, cached: bool
    ) -> None:
        """Without `cached`, every step reads its rows from the beginning."""
        self._forward = forward
        self._budget = budget
        self._batch_size = batch_size
        self._cached = cached

    def run(
        self, rows: Sequence[Sequence[int]], clusters: Sequence[Cluster], decoding: Decoding
    ) -> list[Output]:
        """The generated ids of each row, and whether it ended by itself before the limit."""
        done: dict[int, Output] = {}
        for cluster in clusters:
            self._cluster(rows, cluster, decoding, done)
        return [done[index] for index in range(len(rows))]

    def _cluster(
        self,
        rows: Sequence[Sequence[int]],
        cluster: Cluster,
        decoding: Decoding,
        done: dict[int, Output],
    ) -> None:
        """`run` for the rows of one cluster."""
        shared = rows[cluster.members[0]][: cluster.shared]
        prefix = self._forward.prefix(shared) if shared else None

        def work(group: list[int]) -> None:
            members = [cluster.members[place] for place in group]
            done.update(self._batch(rows, members, cluster.shared, prefix, decoding))

        self._budget.run(
            [len(rows[member]) + decoding.limit for member in cluster.members],
            lambda count, _: self._batch_size is None or count <= self._batch_size,
            work,
            adapt=not self._forward.sharded,
        )

    def _batch(
        self,
        rows: Sequence[Sequence[int]],
        members: Sequence[int],
        shared: int,
        prefix: Cache | None,
        decoding: Decoding,
    ) -> Iterator[tuple[int, Output]]:
        """(row, (generated ids, ended)) of each of `members`."""
        outputs: dict[int, list[int]] = {row: [] for row in members}
        ended: set[int] = set()
        alive = list(members)  # which row each line of the batch belongs to
        state = self._begin([rows[row][shared:] for row in members], prefix, shared, decoding)
        for step in range(decoding.limit):
            newest = decoding.choose(state.logits(self._forward), alive, step)
            for row, token in zip(alive, newest.tolist(), strict=True):
                if row not in ended:
                    outputs[row].append(token)
                    if decoding.ends(outputs[row]):
                        ended.add(row)
            going = [line for line, row in enumerate(alive) if row not in ended]
            if not going:
                break
            # Dropping lines copies the cache: worth it once a quarter of them is idle.
            if 4 * len(going) <= 3 * len(alive):
                newest = state.keep(going, newest)
                alive = [alive[line] for line in going]
            state.append(newest)
        return ((row, (outputs[row], row in ended)) for row in members)

    def _begin(
        self,
        rows: Sequence[Sequence[int]],
        prefix: Cache | None,
        shared: int,
        decoding: Decoding,
    ) -> _State:
        """The prompts, of which the first `shared` tokens are in `prefix` already."""
        from evaluators.kv_cache import batch_cache

        ids, mask, positions = left_pad(rows, self._forward.device, shared)
        if not self._cached:
            return _State(ids, mask, positions, None)
        padding = [ids.shape[1] - len(row) for row in rows]
        room = mask.shape[1] + decoding.limit
        cache = batch_cache(self._forward.model.config, prefix, room, padding)
        return _State(ids, mask, positions, cache)


@final
class _State:
    """What the next forward of a batch needs."""

    def __init__(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache | None) -> None:
        self._ids = ids
        self._mask = mask  # [lines, cached and new positions]
        self._positions = positions
        self._cache = cache

    def logits(self, forward: Forward) -> Tensor:
        """Logits [lines, vocabulary] of the next token."""
        return forward(self._ids, self._mask, self._positions, self._cache, 1)[:, -1]

    def keep(self, lines: Sequence[int], newest: Tensor) -> Tensor:
        """Go on with these lines only; their part of `newest`."""
        kept = torch.tensor(lines, device=newest.device)
        if self._cache is not None:
            self._cache.reorder_cache(kept)
        self._ids = self._ids[kept]
        self._mask, self._positions = self._mask[kept], self._positions[kept]
        return newest[kept]

    def append(self, newest: Tensor) -> None:
        """Make `newest` [lines] the next input, after all before it unless that is cached."""
        ids, positions = newest[:, None], self._positions[:, -1:] + 1
        if self._cache is None:
            ids = torch.cat((self._ids, ids), dim=1)
            positions = torch.cat((self._positions, positions), dim=1)
        self._ids, self._positions = ids, positions
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
