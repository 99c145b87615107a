"""What is kept of one gradient, and the one pass that applies it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from gmt_core.flat import chunks_of
from gmt_core.permutation import Permutation


class Rule(ABC):
    """Decides, element by element, what of one gradient stays."""

    @abstractmethod
    def keeps(self, chunk: Tensor, start: int) -> Tensor | None:
        """Which elements of a flat chunk stay: bool, chunk's shape; None where all do.

        `start` is the place of the chunk's first element in the flat gradient.
        """


@final
@dataclass(frozen=True)
class KeepAll(Rule):
    """The gradient as it is (SFT)."""

    def keeps(self, chunk: Tensor, start: int) -> Tensor | None:
        """Keep everything."""
        return None


@final
@dataclass(frozen=True)
class KeepLargest(Rule):
    """Elements with |g| >= threshold, so that ties stay (the paper's Algorithm 1)."""

    threshold: Tensor  # no dimensions

    def keeps(self, chunk: Tensor, start: int) -> Tensor | None:
        """Compare magnitudes with the threshold, in the wider of the two dtypes."""
        magnitudes = chunk.abs()
        wide = torch.promote_types(magnitudes.dtype, self.threshold.dtype)
        # A tensor without dimensions would be rounded to the chunk's dtype, and ties with it.
        return magnitudes.to(wide) >= self.threshold.to(device=chunk.device, dtype=wide)


@final
@dataclass(frozen=True)
class KeepRandom(Rule):
    """Exactly `kept` elements, chosen by a keyed permutation."""

    permutation: Permutation
    kept: int

    def keeps(self, chunk: Tensor, start: int) -> Tensor | None:
        """Keep what the permutation sends to the first `kept` places."""
        return self.permutation(start, start + chunk.numel(), chunk.device) < self.kept


@dataclass(frozen=True)
class Tally:
    """Counts and squared norms of gradients before and after masking."""

    numel: int = 0
    kept: int = 0
    nonzero: int = 0
    energy: float = 0.0
    energy_kept: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            self.numel + other.numel,
            self.kept + other.kept,
            self.nonzero + other.nonzero,
            self.energy + other.energy,
            self.energy_kept + other.energy_kept,
        )


@torch.no_grad()
def apply_(gradient: Tensor, rule: Rule) -> None:
    """Zero in place what the rule does not keep; what it keeps stays bit for bit."""
    if isinstance(rule, KeepAll):
        return
    for start, chunk in chunks_of(gradient):
        keeps = rule.keeps(chunk, start)
        if keeps is not None:
            chunk.masked_fill_(keeps.logical_not_(), 0)


def apply_all_(gradients: Sequence[Tensor], rules: Sequence[Rule]) -> None:
    """`apply_` to each gradient with its rule."""
    for gradient, rule in zip(gradients, rules, strict=True):
        apply_(gradient, rule)


def apply_and_count_all_(gradients: Sequence[Tensor], rules: Sequence[Rule]) -> list[Tally]:
    """`apply_and_count_` to each gradient with its rule."""
    return [apply_and_count_(g, rule) for g, rule in zip(gradients, rules, strict=True)]


@torch.no_grad()
def apply_and_count_(gradient: Tensor, rule: Rule) -> Tally:
    """As `apply_`, counting on the way (one read of each chunk more, in float64)."""
    sums = torch.zeros(4, dtype=torch.float64, device=gradient.device)
    for start, chunk in chunks_of(gradient):
        keeps = rule.keeps(chunk, start)
        squares = chunk.double().square_()
        before = squares.sum()
        count = sums.new_tensor(chunk.numel()) if keeps is None else keeps.count_nonzero()
        if keeps is not None:
            drops = keeps.logical_not_()
            squares.masked_fill_(drops, 0)
        sums += torch.stack(
            (count.double(), chunk.count_nonzero().double(), before, squares.sum())
        )
        if keeps is not None:
            chunk.masked_fill_(drops, 0)
    kept, nonzero, energy, energy_kept = sums.tolist()
    return Tally(gradient.numel(), int(kept), int(nonzero), energy, energy_kept)
