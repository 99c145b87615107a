"""One parameter's gradient as this rank sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from gmt_core.flat import flat_view, in_layout_of
from gmt_core.layout import Layout, is_dtensor, local_part
from gmt_core.magnitudes import Magnitudes, Saliency


@final
@dataclass(frozen=True)
class LocalGradient:
    """The part of a gradient that this rank holds, and where it belongs.

    `place` counts the optimizer's parameters from 0, those without a gradient included; `name`
    is the parameter's, or a description where it has none. `gradient` and `weight` are
    plain local tensors of one shape.
    """

    place: int
    name: str
    gradient: Tensor
    weight: Tensor | None
    layout: Layout

    @classmethod
    def of(cls, place: int, name: str, gradient: Tensor, weight: Tensor | None) -> LocalGradient:
        """Read a gradient and its parameter; ValueError where it has no place in the whole."""
        if not isinstance(gradient, Tensor):
            raise ValueError(f"{name}: expected a gradient, found {type(gradient).__name__}")
        layout = Layout.of(gradient, name)
        if weight is not None and weight.shape != gradient.shape:
            raise ValueError(
                f"{name}: expected weights of shape {tuple(gradient.shape)}, as the gradient, "
                f"found {tuple(weight.shape)}"
            )
        if weight is not None and is_dtensor(gradient) is not is_dtensor(weight):
            raise ValueError(
                f"{name}: expected gradient and parameter to be both DTensors or none, "
                f"found {type(gradient).__name__} and {type(weight).__name__}"
            )
        local = local_part(weight) if weight is not None else None
        return cls(place, name, local_part(gradient), local, layout)

    @property
    def numel(self) -> int:
        """Elements of the whole gradient, over all ranks."""
        return self.layout.numel

    @property
    def unfit(self) -> str:
        """What was expected where its elements have no order; "" where they have one."""
        if self.gradient.layout is not torch.strided:
            return "a dense gradient, found a sparse one; use sparse=False"
        return (
            f"a real gradient, found {self.gradient.dtype}" if self.gradient.is_complex() else ""
        )

    def checked(self) -> Self:
        """Itself; raises ValueError, naming the parameter, where it cannot be masked in place."""
        if what := self.unfit:
            raise ValueError(f"{self.name}: expected {what}, or exclude the parameter by name")
        flat_view(self.gradient)
        return self

    def flat_weight(self) -> Tensor:
        """The weights, flat, in the order of the gradient's memory; a copy only if it must."""
        if self.weight is None:
            raise ValueError(f"{self.name}: this saliency needs the weights, found none")
        return flat_view(in_layout_of(self.weight, self.gradient))

    def magnitudes(self, dtype: torch.dtype, saliency: Saliency) -> Magnitudes:
        """What the local elements are ranked by, compared in that dtype."""
        weight = None if saliency == "gradient" else self.flat_weight()
        return Magnitudes(self.gradient, dtype, weight, saliency)


def local_gradients(
    gradients: Sequence[Tensor],
    names: Sequence[str] | None = None,
    weights: Sequence[Tensor] | None = None,
) -> list[LocalGradient]:
    """Gradients without an optimizer, in their order; the names are needed by some methods.

    Raises ValueError for a single tensor, and for names or weights of another number.
    """
    if not isinstance(gradients, Sequence):
        raise ValueError(
            f"gradients: expected a list of tensors, found {type(gradients).__name__}"
        )
    for what, given in (("names", names), ("weights", weights)):
        if given is not None and len(given) != len(gradients):
            raise ValueError(
                f"{what}: expected one for each of {len(gradients)} gradients, found {len(given)}"
            )
    return [
        LocalGradient.of(
            place,
            names[place] if names is not None else f"gradient {place}",
            gradient,
            weights[place] if weights is not None else None,
        )
        for place, gradient in enumerate(gradients)
    ]
