"""What a gradient's elements are ranked by, as integers that sort as the magnitudes do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from gmt_core.flat import INT_OF, flat_view

Saliency = Literal["gradient", "product"]


@final
@dataclass(frozen=True, slots=True)  # there may be thousands
class Magnitudes:
    """|g|, or |g * w| where there are weights, of one local tensor, in the order of its memory."""

    gradient: Tensor  # one block of memory
    dtype: torch.dtype  # of the comparison; it holds every magnitude exactly
    weight: Tensor | None = None  # flat, in the order of the gradient's memory

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
            values = products(values, self.weight[part])
        return values.to(self.dtype).view(INT_OF[self.dtype])


def products(gradient: Tensor, weight: Tensor) -> Tensor:
    """g * w in the dtype of the gradient: threshold and mask must round it alike."""
    return (gradient * weight).to(gradient.dtype)


LocalPool = Sequence[Magnitudes]  # what this rank holds of the elements that are ranked together


def plain_pool(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Magnitudes]:
    """The magnitudes of some tensors."""
    return [Magnitudes(tensor.detach(), dtype) for tensor in tensors]
