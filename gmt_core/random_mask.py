"""Random Mask: the paper's control for Gradient-Mask Tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from gmt_core.checks import checked_seed
from gmt_core.flat import sampled
from gmt_core.layout import Layout
from gmt_core.local_gradient import LocalGradient
from gmt_core.method import RatioMethod
from gmt_core.permutation import Permutation
from gmt_core.ratios import Ratio
from gmt_core.rules import KeepAll, KeepRandom, Rule
from gmt_core.schedule import Hold
from gmt_core.threshold import kept_count


@final
@dataclass(frozen=True)
class KeepRandomPart(Rule):
    """As KeepRandom, for a part of a tensor: its elements keep their places in the whole."""

    permutation: Permutation
    kept: int
    layout: Layout
    gradient: Tensor  # for the order of its memory

    def keeps(self, chunk: Tensor, start: int) -> Tensor:
        """Keep what the permutation of the whole sends to the first `kept` places."""
        return self._keeps(torch.arange(start, start + chunk.numel(), device=chunk.device))

    def keeps_of(self, values: Tensor, gradient: Tensor, sample: slice) -> Tensor:
        """As `keeps`, of the sampled elements."""
        return self._keeps(sampled(gradient, sample))

    def _keeps(self, elements: Tensor) -> Tensor:
        places = self.layout.places(elements, self.gradient)
        return self.permutation.of_places(places) < self.kept


@final
class RandomMask(RatioMethod):
    """Keeps a random subset of the same size: the paper's control, "Random Mask".

    It is drawn again at each update, or held. It depends only on the seed, the update, and the
    parameter's place and shape, so every rank, sharding and rerun draws the same mask without
    communication.
    """

    needs_gradients = False

    def __init__(
        self, mask_ratio: Ratio | Mapping[str, Ratio], seed: int = 0, *, hold: Hold = None
    ) -> None:
        """Choose what is masked.

        Args:
            mask_ratio: as in `GradientMask`.
            seed: of the permutations.
            hold: as in `GradientMask`; "training" is SHiRA's mask (arXiv 2406.13175).

        Raises:
            ValueError: a ratio outside [0, 1), or a seed that is no whole number.
        """
        super().__init__("random", mask_ratio, hold)
        self.seed: int = checked_seed(seed)

    def rules(self, gradients: Sequence[LocalGradient], update: int) -> list[Rule]:
        """One keyed permutation for each gradient."""
        return [self._rule_of(gradient, update) for gradient in gradients]

    def _rule_of(self, gradient: LocalGradient, update: int) -> Rule:
        ratio = self.ratios.at(self.ratios.pattern_of(gradient.name), update)
        kept = kept_count(gradient.numel, ratio)
        if kept == gradient.numel:
            return KeepAll()
        gradient.checked()
        permutation = Permutation.of(gradient.numel, self.seed, update, gradient.place)
        layout = gradient.layout
        if layout.local == layout.shape and gradient.gradient.is_contiguous():
            return KeepRandom(permutation, kept)
        return KeepRandomPart(permutation, kept, layout, gradient.gradient)
