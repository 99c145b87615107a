"""Which fast paths are exact for a model: found by comparing a few tokens with plain forwards.

Architectures differ in what they make of left padding, and of a cache filled in parts. One that
ignores its cache, or attends to padding, raises no error: its scores are merely wrong.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evaluators.batching import TokenBudget, left_pad
from evaluators.errors import EvaluationError, InexactModelError
from evaluators.forward import Forward
from evaluators.generation import Decoding, Generator
from evaluators.likelihood import Scorer, Window
from evaluators.prefixes import Cluster, shared_prefixes

_LOG = logging.getLogger(__name__)
_SHARED, _TAILS, _NEW = 6, (3, 7), 2  # tokens that two rows share, have alone, and get
_BUDGET = 64
_TOLERANCE, _HALF_TOLERANCE = 3e-4, 0.2  # in half precision rounding can choose another expert


# Other errors, such as those of a device or of a peer, are not the model's.
_UNUSABLE = (TypeError, ValueError, LookupError, AttributeError, NotImplementedError)


@dataclass(frozen=True)
class Paths:
    """What may be used for a model.

    `shared`: a cache is continued by several tokens at once, so that rows can share a prefix.
    `padded`: rows of different lengths share a batch. `cached`: generation keeps a cache.
    """

    shared: bool = True
    padded: bool = True
    cached: bool = True

    def clusters(self, rows: Sequence[Sequence[int]]) -> list[Cluster]:
        """Every index of `rows` in one cluster, of which batches are made."""
        if self.shared:
            return shared_prefixes(rows)
        alike: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            alike.setdefault(0 if self.padded else len(row), []).append(index)
        return [Cluster(tuple(members), 0) for members in alike.values()]

    def __str__(self) -> str:
        names = {"shared prefixes": self.shared, "padding": self.padded, "a cache": self.cached}
        return "without " + ", ".join(name for name, used in names.items() if not used)


PLAIN_PATHS = Paths(shared=False, padded=False, cached=False)
_FASTEST_FIRST = (
    Paths(),
    Paths(shared=False),
    Paths(shared=False, padded=False),
    Paths(shared=False, cached=False),
    PLAIN_PATHS,
)


def exact_paths(forward: Forward) -> Paths:
    """The fastest paths that give what single rows without a cache give.

    Two rows of 11 and 15 tokens are generated and scored along them. All ranks compare the same
    tokens and so choose the same paths.

    Raises:
        InexactModelError: no paths are exact, or the model cannot be called.
    """
    from evaluators.kv_cache import is_plain

    kind = type(forward.model).__name__
    try:
        rows = _rows(forward.model.config.get_text_config().vocab_size)
        expected = _log_probabilities(forward, rows)
        if not all(bool(each.isfinite().all()) for each in expected):
            return Paths()  # diverged: no path gives finite scores
        for paths in _FASTEST_FIRST[0 if is_plain(forward.model.config) else 1 :]:
            if _is_exact(forward, rows, expected, paths):
                if paths != Paths():
                    _LOG.warning("%s is evaluated %s: it would not be exact", kind, paths)
                return paths
    except _UNUSABLE as error:
        raise InexactModelError.of(kind, f"{type(error).__name__}: {error}") from error
    raise InexactModelError.of(kind, "the score of a token depends on the tokens after it")


def steady_positions(config: Any) -> float:
    """The longest row whose rotary frequencies do not depend on the other rows of its batch."""
    config = config.get_text_config()
    found = getattr(config, "rope_parameters", None) or {}
    return min(
        (
            each.get("original_max_position_embeddings", config.max_position_embeddings)
            for each in (found, *found.values())  # one for all layers, or one for each kind
            if isinstance(each, dict) and each.get("rope_type") in ("dynamic", "longrope")
        ),
        default=math.inf,
    )


def _rows(vocabulary: int) -> list[list[int]]:
    """Two rows of different lengths that begin alike, of tokens all over the vocabulary."""
    shared = [(7 + 7919 * place) % vocabulary for place in range(_SHARED)]
    return [
        shared + [(tail + 6007 * place) % vocabulary for place in range(tail + _NEW)]
        for tail in _TAILS
    ]


def _log_probabilities(forward: Forward, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """[tokens, vocabulary] of each row: what follows each token, by one forward of that row."""
    found: dict[int, Tensor] = {}

    def work(group: list[int]) -> None:
        row = rows[group[0]]
        logits = forward(*left_pad([row], forward.device), None, len(row))
        found[group[0]] = logits[0].float().log_softmax(dim=-1)

    TokenBudget(_BUDGET).run([len(row) for row in rows], lambda count, _: count == 1, work)
    return [found[index] for index in range(len(rows))]


def _is_exact(
    forward: Forward, rows: Sequence[Sequence[int]], expected: Sequence[Tensor], paths: Paths
) -> bool:
    """Whether both generation and scoring along `paths` find the `expected` log-probabilities.

    Errors are measured in standard deviations of those.
    """
    clusters = [Cluster((0, 1), _SHARED)] if paths.shared else paths.clusters(rows)
    try:
        generated = _generated(forward, rows, clusters, paths)
        scored = Scorer(forward, TokenBudget(_BUDGET), None, paths.shared).run(
            [[Window(tuple(row), _NEW)] for row in rows], clusters
        )
    except EvaluationError:  # memory ran out
        raise
    except Exception:
        if paths == PLAIN_PATHS:
            raise
        return False
    half = torch.finfo(forward.dtype).eps > torch.finfo(torch.float32).eps
    for row, steps, [(nats, _)], every in zip(rows, generated, scored, expected, strict=True):
        truth = every[-_NEW - 1 : -1]
        right = sum(float(step[token]) for step, token in zip(truth, row[-_NEW:], strict=True))
        away = torch.stack(steps).log_softmax(-1) - truth[: len(steps)]
        worst = max(float(away.square().mean().sqrt()), abs(nats - right) / _NEW)
        if not worst <= (_HALF_TOLERANCE if half else _TOLERANCE) * max(float(truth.std()), 1e-3):
            return False
    return True


def _generated(
    forward: Forward, rows: Sequence[Sequence[int]], clusters: Sequence[Cluster], paths: Paths
) -> list[list[Tensor]]:
    """The logits [vocabulary] from which the last tokens of each row would be chosen.

    The first row ends one token early: the cache of the other one is kept alone.
    """
    seen: list[list[Tensor]] = [[] for _ in rows]

    def choose(logits: Tensor, lines: Sequence[int], step: int) -> Tensor:
        for line, row in zip(logits.float(), lines, strict=True):
            seen[row].append(line)
        return torch.tensor([rows[row][step - _NEW] for row in lines], device=logits.device)

    decoding = Decoding(choose, lambda ids: ids[-1] == rows[0][-_NEW], _NEW)
    generator = Generator(forward, TokenBudget(_BUDGET), None, paths.cached)
    generator.run([row[:-_NEW] for row in rows], clusters, decoding)
    return seen
