"""Log-likelihoods of the last tokens of many sequences, with few logits in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from evaluators.batching import TokenBudget, left_pad
from evaluators.forward import Forward
from evaluators.prefixes import Cluster

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

# Bounds the logits of one forward: half a gibibyte in float32.
LOGIT_ELEMENTS = 2**27


@dataclass(frozen=True)
class Window:
    """A sequence [n] of which the last `scored` tokens are to be scored (n > scored)."""

    ids: tuple[int, ...]
    scored: int

    @property
    def input(self) -> tuple[int, ...]:
        """What the model reads: all but the last token."""
        return self.ids[:-1]


@final
class Scorer:
    """Scores windows: clusters that share a prefix, batches within the budget."""

    def __init__(
        self, forward: Forward, budget: TokenBudget, batch_size: int | None, shared: bool
    ) -> None:
        """Without `shared`, no forward continues the cache of another one."""
        self._forward = forward
        self._budget = budget
        self._batch_size = batch_size
        self._shared = shared
        self._vocabulary: int = forward.model.config.get_text_config().vocab_size

    def run(
        self, inputs: Sequence[Sequence[Window]], clusters: Sequence[Cluster]
    ) -> list[list[tuple[float, bool]]]:
        """(nats, is greedy) of each window; the windows of one input differ in the last token.

        `clusters` say what the inputs share before their scored positions.
        """
        done: dict[int, list[tuple[float, bool]]] = {}
        for cluster in clusters:
            members = [inputs[index] for index in cluster.members]
            done.update(zip(cluster.members, self._cluster(members, cluster.shared), strict=True))
        return [done[index] for index in range(len(inputs))]

    def _cluster(
        self, inputs: Sequence[Sequence[Window]], shared: int
    ) -> list[list[tuple[float, bool]]]:
        """`run` for inputs that begin with the same `shared` tokens."""
        prefix = self._forward.prefix(inputs[0][0].input[:shared]) if shared else None
        done: dict[int, list[tuple[float, bool]]] = {}
        whole = 1 if self._shared else max(windows[0].scored for windows in inputs)

        def work(group: list[int]) -> None:
            scores = self._batch([inputs[index] for index in group], shared, prefix)
            done.update(zip(group, scores, strict=True))

        self._budget.run(
            [len(windows[0].input) for windows in inputs],
            lambda count, _: self._fits(count, whole),
            work,
            adapt=not self._forward.sharded,
        )
        return [done[index] for index in range(len(inputs))]

    def _fits(self, count: int, positions: int) -> bool:
        """Whether the logits of `positions` of each of `count` rows fit at once."""
        few = self._batch_size is None or count <= self._batch_size
        return few and count * positions * self._vocabulary <= LOGIT_ELEMENTS

    def _batch(
        self, inputs: Sequence[Sequence[Window]], shared: int, prefix: Cache | None
    ) -> list[list[tuple[float, bool]]]:
        """(nats, is greedy) of the windows of each input.

        Left padding puts every scored position at the end. Where their logits would not fit, the
        sequences go through the model in pieces, each of which continues the cache.
        """
        from evaluators.kv_cache import batch_cache

        rows = [windows[0].input[shared:] for windows in inputs]
        ids, mask, positions = left_pad(rows, self._forward.device, shared)
        widest = max(windows[0].scored for windows in inputs)
        size = widest
        if self._shared:
            size = max(1, LOGIT_ELEMENTS // (len(inputs) * self._vocabulary))
        pieces = _pieces(ids.shape[1], widest, size)
        cache: Cache | None = None
        if prefix is not None or len(pieces) > 1:
            room = 0 if len(pieces) == 1 else mask.shape[1]
            padding = [ids.shape[1] - len(row) for row in rows]
            cache = batch_cache(self._forward.model.config, prefix, room, padding)
        totals = [_Total(windows, self._forward.device) for windows in inputs]
        for start, end, keep in pieces:
            logits = self._forward(
                ids[:, start:end], mask[:, : shared + end], positions[:, start:end], cache, keep
            )
            for row, total in zip(logits, totals, strict=True):
                total.add(row, ids.shape[1] - end)
        return [total.results() for total in totals]


def _pieces(length: int, widest: int, size: int) -> list[tuple[int, int, int]]:
    """(start, end, logits to keep) of the forwards over `length` columns.

    The last `widest` columns are scored, at most `size` of them in one forward.
    """
    ends = [*range(length - widest + size, length, size), length]
    starts = [0, *ends[:-1]]
    return [
        (start, end, min(end - start, end - max(start, length - widest)))
        for start, end in zip(starts, ends, strict=True)
    ]


@final
class _Total:
    """The sums of the windows that share one input, while pieces of it come in."""

    def __init__(self, windows: Sequence[Window], device: torch.device) -> None:
        self._scored = windows[0].scored
        self._targets = torch.tensor(
            [window.ids[-window.scored :] for window in windows], device=device
        )
        self._nats = torch.zeros(len(windows), dtype=torch.double, device=device)
        self._greedy = torch.ones(len(windows), dtype=torch.bool, device=device)

    def add(self, logits: Tensor, after: int) -> None:
        """Add the tokens that `logits` [positions, vocabulary] predict.

        `after` positions of the input come after them.
        """
        end = self._scored - after
        start = max(0, end - logits.shape[0])
        if end <= start:
            return
        logits = logits[logits.shape[0] - (end - start) :].float()
        targets = self._targets[:, start:end]
        chosen = logits.gather(1, targets.T) - logits.logsumexp(dim=-1, keepdim=True)
        self._nats += chosen.double().sum(dim=0)
        self._greedy &= (targets == logits.argmax(dim=-1)).all(dim=1)

    def results(self) -> list[tuple[float, bool]]:
        """(nats, is greedy) of each window."""
        return list(zip(self._nats.tolist(), self._greedy.tolist(), strict=True))
