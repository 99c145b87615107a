"""What every method has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

from torch import Tensor

from gmt_core.local_gradient import LocalGradient, local_gradients
from gmt_core.rules import KeepAll, Rule, apply_all_


class Method(ABC):
    """Chooses, for each update, what of the gradients the optimizer sees."""

    name: str
    mask_ratio: float  # at the end of its schedule
    seed: int | None = None  # of what it draws at random
    needs_names: bool = False  # whether it reads the parameters' names

    def bind(self, names: Sequence[str]) -> Method:
        """The method for a model with these parameters, before its first update.

        Raises ValueError where it reads the names and cannot. Most methods do not.
        """
        return self

    @abstractmethod
    def rules(self, gradients: Sequence[LocalGradient], update: int) -> list[Rule]:
        """One rule for each gradient; the gradients are read and not changed.

        `update` counts the optimizer steps from 0. Where gradients are spread over ranks, every
        rank must call it with the same parameters.
        """

    @final
    def mask_(
        self,
        gradients: Sequence[Tensor],
        update: int,
        *,
        names: Sequence[str] | None = None,
        weights: Sequence[Tensor] | None = None,
    ) -> None:
        """Zero in place what is not kept; nothing is changed where an error is raised."""
        read = local_gradients(gradients, names, weights)
        apply_all_([g.gradient for g in read], self.rules(read, update))


@final
class SFT(Method):
    """Ordinary fine-tuning: every gradient element stays."""

    def __init__(self) -> None:
        """Nothing to choose."""
        self.name = "sft"
        self.mask_ratio = 0.0

    def rules(self, gradients: Sequence[LocalGradient], update: int) -> list[Rule]:
        """Keep everything."""
        return [KeepAll() for _ in gradients]
