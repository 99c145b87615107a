"""Gradient-Mask Tuning: arXiv 2406.15330, section 2.2 and Algorithm 1, lines 5-7."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, final

from torch import Tensor

from gmt_core.errors import NonFiniteGradientError
from gmt_core.local_gradient import LocalGradient
from gmt_core.magnitudes import SALIENCIES, Saliency
from gmt_core.method import RatioMethod
from gmt_core.method_config import MethodConfig
from gmt_core.naming import one_of
from gmt_core.ratios import Ratio
from gmt_core.rules import KeepAll, KeepLargest, KeepMostSalient, Rule
from gmt_core.schedule import Hold
from gmt_core.selection import Pool, saliency_thresholds
from gmt_core.threshold import kept_count

Scope = Literal["tensor", "global"]
SCOPES: Final = ("tensor", "global")


@final
class GradientMask(RatioMethod):
    """Gradient-Mask Tuning: keeps the elements of largest saliency and zeroes the others.

    The threshold is exact, equal to that of a full sort, and ties with it are kept (arXiv
    2406.15330, Eq. 3 and 8).
    """

    def __init__(
        self,
        mask_ratio: Ratio | Mapping[str, Ratio],
        scope: Scope = "tensor",
        *,
        saliency: Saliency = "gradient",
        hold: Hold = None,
    ) -> None:
        """Choose what is masked.

        Args:
            mask_ratio: the fraction of elements zeroed, in [0, 1); a `RatioSchedule` of it; or one
                of them for each name pattern, as {"*mlp*": 0.5, "*": 0.2}. Parameters that no
                pattern fits are not masked.
            scope: "tensor" applies the ratio to each gradient, "global" to all elements together
                (of the parameters that one pattern fits).
            saliency: what elements are ranked by: "gradient" |g|; "product" |g * w|, the
                first-order term of Eq. 7; "weight" |w|; "gradient_over_weight" |g / w|.
            hold: None draws a mask at each update, a count k at every k-th, "training" at the
                first alone.

        Raises:
            ValueError: a ratio outside [0, 1), or an unknown scope, saliency or hold.
        """
        one_of("scope", scope, SCOPES)
        one_of("saliency", saliency, SALIENCIES)
        super().__init__("gmt", mask_ratio, hold)
        self.scope: Scope = scope
        self.saliency: Saliency = saliency

    @property
    def config(self) -> MethodConfig:
        """What it was built with."""
        return replace(super().config, scope=self.scope, saliency=self.saliency)

    def rules(self, gradients: Sequence[LocalGradient], update: int) -> list[Rule]:
        """One rule for each gradient, with its exact threshold.

        Raises:
            NonFiniteGradientError: a gradient that needs a threshold holds NaN or infinity.
        """
        found: list[Rule] = [KeepAll() for _ in gradients]
        pools, members = [], []
        for pattern, indices in self._together(gradients):
            numel = sum(gradients[i].numel for i in indices)
            kept = kept_count(numel, self.ratios.at(pattern, update))
            if kept < numel:
                pools.append(Pool(tuple(gradients[i].checked() for i in indices), kept))
                members.append(indices)
        try:
            thresholds = saliency_thresholds(pools, self.saliency)
        except NonFiniteGradientError as error:
            raise self._named(error, members) from None
        for indices, threshold in zip(members, thresholds, strict=True):
            for i in indices:
                found[i] = self._rule(gradients[i], threshold)
        return found

    def _together(
        self, gradients: Sequence[LocalGradient]
    ) -> Iterator[tuple[str | None, list[int]]]:
        """The indices of gradients that are ranked together, and the pattern of their ratio."""
        found = defaultdict[tuple[str | None, int], list[int]](list)
        for index, gradient in enumerate(gradients):
            pattern = self.ratios.pattern_of(gradient.name)
            found[pattern, index if self.scope == "tensor" else 0].append(index)
        return ((pattern, indices) for (pattern, _), indices in found.items())

    def _rule(self, gradient: LocalGradient, threshold: Tensor) -> Rule:
        if self.saliency == "gradient":
            return KeepLargest(threshold)
        return KeepMostSalient(threshold, gradient.flat_weight(), self.saliency)

    def _named(
        self, error: NonFiniteGradientError, members: Sequence[Sequence[int]]
    ) -> NonFiniteGradientError:
        """The error, its index counted among the gradients instead of among the pools."""
        if error.index is None or self.scope == "global":
            return NonFiniteGradientError(str(error))
        index = members[error.index][0]
        return NonFiniteGradientError(f"gradient {index}: {error}", index)
