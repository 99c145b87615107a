"""What every method has in common."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self, final

from torch import Tensor

from gmt_core.checks import checked_count
from gmt_core.local_gradient import LocalGradient, local_gradients
from gmt_core.method_config import MethodConfig
from gmt_core.ratios import Ratio, Ratios
from gmt_core.rules import KeepAll, Rule, apply_all_
from gmt_core.schedule import Hold, drawn_at


class Method(ABC):
    """Chooses, for each update, what of the gradients the optimizer sees.

    A method of your own sets `name` and `mask_ratio`, and implements `rules`.
    """

    name: str
    """In messages and in the masker's state."""
    mask_ratio: float | Mapping[str, float]
    """The fraction of elements zeroed, in [0, 1), at the end of its schedule."""
    seed: int | None = None
    """Of what it draws at random."""
    hold: Hold = None
    """For how many updates one mask serves; None: one."""
    needs_names: bool = False
    """Whether it reads the parameters' names."""
    needs_gradients: bool = True
    """Whether its masks depend on anything but seed and update."""

    @property
    def config(self) -> MethodConfig:
        """What it was built with."""
        return MethodConfig(self.name, self.mask_ratio, hold=self.hold, seed=self.seed)

    @property
    def stores_masks(self) -> bool:
        """Whether its masks serve again and cannot be drawn again."""
        return self.hold is not None and self.needs_gradients

    def __repr__(self) -> str:
        """As it was built, without what is the default."""
        config = self.config
        given = [
            f"{name}={value!r}"
            for name, parameter in inspect.signature(type(self)).parameters.items()
            if (value := getattr(config, name, parameter.default)) != parameter.default
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    def bind(self, names: Sequence[str]) -> Method:
        """The method for a model with these parameters, before its first update.

        Raises:
            ValueError: the method depends on names, and these do not fit.
        """
        return self

    @abstractmethod
    def rules(self, gradients: Sequence[LocalGradient], update: int) -> list[Rule]:
        """One rule for each gradient, in order. The gradients are read and not changed.

        Args:
            gradients: this rank's part of each gradient. If gradients are spread over ranks, every
                rank calls this with the same parameters.
            update: counts optimizer steps from 0; of a held mask, the step that draws it.
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
        """Mask gradients without an optimizer: zero in place what is not kept.

        Args:
            gradients: of any shapes; floating-point.
            update: counts updates from 0.
            names: of the parameters, for methods that read them.
            weights: the parameters, of the gradients' shapes, for saliencies that read them.

        Raises:
            ValueError: an earlier update drew this mask from its gradients, or names or weights do
                not fit. Nothing is changed then.
        """
        drawn = drawn_at(self.hold, checked_count("update", update, "a count of updates from 0"))
        if self.stores_masks and drawn != update:
            raise ValueError(
                f"hold: the mask of update {update} was drawn at update {drawn} and is kept with "
                "an optimizer; attach a GradientMasker to it"
            )
        read = local_gradients(gradients, names, weights)
        apply_all_([g.gradient for g in read], self.rules(read, drawn))


class RatioMethod(Method):
    """A method whose mask ratio may follow a schedule and depend on the parameters' names."""

    def __init__(self, name: str, mask_ratio: Ratio | Mapping[str, Ratio], hold: Hold) -> None:
        """Raise ValueError on a ratio outside [0, 1), and on a hold that is none."""
        self.name = name
        self.ratios = Ratios.of(mask_ratio)
        self.mask_ratio, self.needs_names = self.ratios.ends, self.ratios.by_name
        self.hold = self.ratios.checked_hold(hold)

    @property
    def config(self) -> MethodConfig:
        """What it was built with."""
        return replace(super().config, mask_ratio=self.ratios.given)

    def bind(self, names: Sequence[str]) -> Self:
        """Itself; raises ValueError where a ratio's pattern does not fit the names."""
        self.ratios.check(names)
        return self


@final
class SFT(Method):
    """Supervised fine-tuning: every gradient element stays, as with a mask ratio of 0."""

    def __init__(self) -> None:
        """Nothing to choose."""
        self.name = "sft"
        self.mask_ratio = 0.0

    def rules(self, gradients: Sequence[LocalGradient], update: int) -> list[Rule]:
        """Keep everything."""
        return [KeepAll() for _ in gradients]
