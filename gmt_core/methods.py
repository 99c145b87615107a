"""What to keep of an accumulated gradient: SFT, Gradient-Mask Tuning and Random Mask.

Gradient-Mask Tuning: arXiv 2406.15330, section 2.2 and Algorithm 1. `mask_ratio` is the fraction
of gradient elements that are zeroed, in [0, 1); a mask_ratio of 0 touches nothing.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, Literal, final

from torch import Tensor

from gmt_core.permutation import Permutation
from gmt_core.rules import KeepAll, KeepLargest, KeepRandom, Rule, apply_all_
from gmt_core.threshold import (
    NonFiniteGradientError,
    kept_count,
    magnitude_thresholds,
    pooled_threshold,
)

Scope = Literal["tensor", "global"]
SCOPES: Final = ("tensor", "global")
NAMES: Final = ("gmt", "sft", "random")


class Method(ABC):
    """Chooses, for each update, what of the gradients the optimizer sees."""

    name: str
    mask_ratio: float

    @abstractmethod
    def rules(self, gradients: Sequence[Tensor], update: int) -> list[Rule]:
        """One rule for each gradient; the gradients are read and not changed.

        `update` counts the optimizer steps from 0.
        """

    @final
    def mask_(self, gradients: Sequence[Tensor], update: int) -> None:
        """Zero in place what is not kept; nothing is changed where an error is raised."""
        apply_all_(gradients, self.rules(gradients, update))


@final
class SFT(Method):
    """Ordinary fine-tuning: every gradient element stays."""

    def __init__(self) -> None:
        """Nothing to choose."""
        self.name = "sft"
        self.mask_ratio = 0.0

    def rules(self, gradients: Sequence[Tensor], update: int) -> list[Rule]:
        """Keep everything."""
        return [KeepAll() for _ in gradients]


@final
class GradientMask(Method):
    """Keeps the elements of largest magnitude (the paper's GMT, Algorithm 1 lines 5-7).

    Scope `tensor` applies the ratio to each gradient, `global` to all elements together.
    """

    def __init__(self, mask_ratio: float, scope: Scope = "tensor") -> None:
        """Raise ValueError on a ratio outside [0, 1) or an unknown scope."""
        if scope not in SCOPES:
            raise ValueError(f"scope: expected {' or '.join(SCOPES)}, found {scope!r}")
        self.name = "gmt"
        self.mask_ratio = _checked_ratio(mask_ratio)
        self.scope: Scope = scope

    def rules(self, gradients: Sequence[Tensor], update: int) -> list[Rule]:
        """Find the exact thresholds; raises NonFiniteGradientError on NaN or infinity."""
        if self.scope == "tensor":
            return self._rules_of_each(gradients)
        numel = sum(g.numel() for g in gradients)
        kept = kept_count(numel, self.mask_ratio)
        if kept == numel:
            return [KeepAll() for _ in gradients]
        rule = KeepLargest(pooled_threshold(gradients, kept))
        return [rule for _ in gradients]

    def _rules_of_each(self, gradients: Sequence[Tensor]) -> list[Rule]:
        kept = [kept_count(g.numel(), self.mask_ratio) for g in gradients]
        masked = [i for i, g in enumerate(gradients) if kept[i] < g.numel()]
        rules: list[Rule] = [KeepAll()] * len(gradients)
        try:
            found = magnitude_thresholds([gradients[i] for i in masked], [kept[i] for i in masked])
        except NonFiniteGradientError as error:
            index = None if error.index is None else masked[error.index]
            raise NonFiniteGradientError(f"gradient {index}: {error}", index) from None
        for i, threshold in zip(masked, found, strict=True):
            rules[i] = KeepLargest(threshold)
        return rules


@final
class RandomMask(Method):
    """Keeps a random subset of the same size, drawn afresh at each update (the paper's control).

    The mask depends on the seed, the update, and the gradient's place and size alone, so every
    rank and every rerun draws the same one without communication.
    """

    def __init__(self, mask_ratio: float, seed: int = 0) -> None:
        """Raise ValueError on a ratio outside [0, 1)."""
        self.name = "random"
        self.mask_ratio = _checked_ratio(mask_ratio)
        self.seed = seed

    def rules(self, gradients: Sequence[Tensor], update: int) -> list[Rule]:
        """One keyed permutation for each gradient."""
        return [self._rule_of(index, g.numel(), update) for index, g in enumerate(gradients)]

    def _rule_of(self, index: int, numel: int, update: int) -> Rule:
        kept = kept_count(numel, self.mask_ratio)
        if kept == numel:
            return KeepAll()
        return KeepRandom(Permutation.of(numel, self.seed, update, index), kept)


def build_method(
    name: str, mask_ratio: float, *, scope: Scope = "tensor", seed: int = 0
) -> Method:
    """The method of that name ("sft", "gmt" or "random"); raises ValueError on any other."""
    if name == "gmt":
        return GradientMask(mask_ratio, scope)
    if name == "random":
        return RandomMask(mask_ratio, seed)
    if name == "sft":
        if mask_ratio != 0:
            raise ValueError(
                f"mask_ratio: method sft masks nothing, expected 0, found {mask_ratio}"
            )
        return SFT()
    near = difflib.get_close_matches(name, NAMES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"method: expected one of {', '.join(NAMES)}, found {name!r}{hint}")


def _checked_ratio(mask_ratio: float) -> float:
    kept_count(1, mask_ratio)  # raises where the ratio is not in [0, 1)
    return float(mask_ratio)
