"""Gradient-Mask Tuning: arXiv 2406.15330, section 2.2 and Algorithm 1, lines 5-7."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, final

from torch import Tensor

from gmt_core.errors import NonFiniteGradientError
from gmt_core.local_gradient import LocalGradient
from gmt_core.magnitudes import Saliency
from gmt_core.method import Method
from gmt_core.naming import one_of
from gmt_core.rules import KeepAll, KeepLargest, KeepLargestProduct, Rule
from gmt_core.schedule import RatioSchedule, as_schedule
from gmt_core.selection import Pool, saliency_thresholds
from gmt_core.threshold import kept_count

Scope = Literal["tensor", "global"]
SCOPES: Final = ("tensor", "global")
SALIENCIES: Final = ("gradient", "product")


@final
class GradientMask(Method):
    """Keeps the elements of largest saliency: |g| (the paper's GMT), or |g * w|.

    `mask_ratio` is the fraction of elements zeroed, in [0, 1), or a schedule of it. Scope
    `tensor` applies it to each gradient, `global` to all elements together. Saliency `product`
    is the first-order term of the paper's Eq. 7.
    """

    def __init__(
        self,
        mask_ratio: float | RatioSchedule,
        scope: Scope = "tensor",
        *,
        saliency: Saliency = "gradient",
    ) -> None:
        """Raise ValueError on a ratio outside [0, 1), an unknown scope or saliency."""
        one_of("scope", scope, SCOPES)
        one_of("saliency", saliency, SALIENCIES)
        self.name = "gmt"
        self.schedule = as_schedule(mask_ratio)
        self.mask_ratio = self.schedule.end
        self.scope: Scope = scope
        self.saliency: Saliency = saliency

    def rules(self, gradients: Sequence[LocalGradient], update: int) -> list[Rule]:
        """Find the exact thresholds; raises NonFiniteGradientError on NaN or infinity."""
        ratio = self.schedule(update)
        found: list[Rule] = [KeepAll() for _ in gradients]
        chosen = [list(range(len(gradients)))]
        if self.scope == "tensor":
            chosen = [[index] for index in range(len(gradients))]
        pools, members = [], []
        for indices in chosen:
            numel = sum(gradients[i].numel for i in indices)
            kept = kept_count(numel, ratio)
            if kept < numel:
                pools.append(Pool(tuple(gradients[i] for i in indices), kept))
                members.append(indices)
        try:
            thresholds = saliency_thresholds(pools, self.saliency)
        except NonFiniteGradientError as error:
            raise self._named(error, members) from None
        for indices, threshold in zip(members, thresholds, strict=True):
            for i in indices:
                found[i] = self._rule(gradients[i], threshold)
        return found

    def _rule(self, gradient: LocalGradient, threshold: Tensor) -> Rule:
        if self.saliency == "product":
            return KeepLargestProduct(threshold, gradient.flat_weight())
        return KeepLargest(threshold)

    def _named(
        self, error: NonFiniteGradientError, members: Sequence[Sequence[int]]
    ) -> NonFiniteGradientError:
        """The error, its index counted among the gradients instead of among the pools."""
        if error.index is None or self.scope == "global":
            return NonFiniteGradientError(str(error))
        index = members[error.index][0]
        return NonFiniteGradientError(f"gradient {index}: {error}", index)
