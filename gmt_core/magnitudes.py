"""What a gradient's elements are ranked by, as integers that sort as the magnitudes do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

import torch
from torch import Tensor

from gmt_core.flat import INT_OF, flat_view

Saliency = Literal["gradient", "product", "weight", "gradient_over_weight"]
SALIENCIES: Final = ("gradient", "product", "weight", "gradient_over_weight")


@final
@dataclass(frozen=True, slots=True)  # there may be thousands
class Magnitudes:
    """|g|, or another saliency, of one local tensor, in the order of its memory."""

    gradient: Tensor  # one block of memory
    dtype: torch.dtype  # of the comparison; it holds every magnitude exactly
    weight: Tensor | None = None  # flat, in the order of the gradient's memory
    saliency: Saliency = "gradient"  # any other needs the weight

    @property
    def numel(self) -> int:
        """Elements on this rank."""
        return self.gradient.numel()

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.gradient.device

    def bits(self, part: slice | Tensor, out: Tensor | None = None) -> Tensor:
        """The magnitudes of some elements as integers of the dtype's size, never negative.

        Raises ValueError where the gradient is not one block of memory.
        """
        read = self.signed_bits(part)
        return torch.bitwise_and(read, torch.iinfo(read.dtype).max, out=out)

    def signed_bits(self, part: slice | Tensor = slice(None)) -> Tensor:
        """As `bits`, with the sign that each element has; often a view of the gradient."""
        values = flat_view(self.gradient)[part]
        if self.weight is not None:
            values = salient(values, self.weight[part], self.saliency)
        return values.to(self.dtype).view(INT_OF[self.dtype])


def salient(gradient: Tensor, weight: Tensor, saliency: Saliency) -> Tensor:
    """What ranks the elements, in the dtype of the gradient: threshold and mask round it alike.

    `gradient_over_weight` is g / (|w| + the smallest normal number), at most the largest finite
    number, so that weights of 0 rank by their gradients.
    """
    if saliency == "product":
        return (gradient * weight).to(gradient.dtype)
    if saliency == "weight":
        return weight.to(gradient.dtype)
    limits = torch.finfo(gradient.dtype)
    ratio = (gradient / (weight.abs() + limits.tiny)).to(gradient.dtype)
    return torch.where(gradient.isinf(), gradient, ratio.clamp_(limits.min, limits.max))


LocalPool = Sequence[Magnitudes]  # what this rank holds of the elements that are ranked together


def plain_pool(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Magnitudes]:
    """The magnitudes of some tensors."""
    return [Magnitudes(tensor.detach(), dtype) for tensor in tensors]
