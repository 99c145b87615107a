"""One parameter's gradient as this rank sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from gmt_core.flat import flat_view
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

    def checked(self) -> Self:
        """Itself; raises ValueError, naming the parameter, where it cannot be masked in place."""
        what = ""
        if self.gradient.layout is not torch.strided:
            what = "a dense gradient, found a sparse one; use sparse=False"
        elif self.gradient.is_complex():
            what = f"a real gradient, found {self.gradient.dtype}"
        if what:
            raise ValueError(f"{self.name}: expected {what}, or exclude the parameter by name")
        flat_view(self.gradient)
        return self

    def flat_weight(self) -> Tensor:
        """The weights, flat, in the memory order that gradient and weight must share."""
        if self.weight is None:
            raise ValueError(f"{self.name}: this saliency needs the weights, found none")
        strides = zip(self.gradient.stride(), self.weight.stride(), strict=True)
        sizes = zip(self.gradient.shape, strides, strict=True)
        if any(size > 1 and ours != theirs for size, (ours, theirs) in sizes):
            raise ValueError(
                f"{self.name}: expected gradient and weight in one memory layout, found strides "
                f"{self.gradient.stride()} and {self.weight.stride()}"
            )
        return flat_view(self.weight)

    def magnitudes(self, dtype: torch.dtype, saliency: Saliency) -> Magnitudes:
        """What the local elements are ranked by, compared in that dtype."""
        weight = None if saliency == "gradient" else self.flat_weight()
        return Magnitudes(self.gradient, dtype, weight, saliency)


def local_gradients(
    gradients: Sequence[Tensor],
    names: Sequence[str] | None = None,
    weights: Sequence[Tensor] | None = None,
) -> list[LocalGradient]:
    """Gradients without an optimizer, in their order; the names are needed by some methods."""
    return [
        LocalGradient.of(
            place,
            names[place] if names is not None else f"gradient {place}",
            gradient,
            weights[place] if weights is not None else None,
        )
        for place, gradient in enumerate(gradients)
    ]
