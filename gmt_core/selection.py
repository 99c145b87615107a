"""Exact thresholds where no rank holds a whole gradient, or where the saliency is a product.

A radix select over the bits of the magnitudes: each pass counts one digit of the elements that
match the digits found so far, and only the counts travel between ranks. All pools share each
collective. At most 37 KiB of counts per float32 pool (3 KiB for 16-bit floats, 16 KiB for
float64), and as much again for each further mesh dimension over which it is spread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, final

import torch
from torch import Tensor

from gmt_core.layout import Spread, all_summed
from gmt_core.local_gradient import LocalGradient
from gmt_core.rules import Rule
from gmt_core.threshold import (
    NonFiniteGradientError,
    chunks_of,
    magnitude_thresholds,
    pooled_threshold,
)

Saliency = Literal["gradient", "product"]

_INT_OF: Final = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
_DIGITS: Final = {2: (8, 7), 4: (11, 11, 9), 8: (8,) * 7 + (7,)}  # by bytes: bits of each digit
_POOLS_AT_ONCE: Final = 256  # their counts take at most 4 MiB


@final
@dataclass(frozen=True)
class Pool:
    """Gradients among whose elements the `kept` most salient are sought."""

    members: tuple[LocalGradient, ...]
    kept: int

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the saliencies are compared; ValueError for one without order."""
        dtype = self.members[0].gradient.dtype
        for member in self.members:
            dtype = torch.promote_types(dtype, member.gradient.dtype)
            if member.gradient.dtype not in _INT_OF:
                raise ValueError(
                    f"{member.name}: expected a gradient of dtype float16, bfloat16, float32 or "
                    f"float64, found {member.gradient.dtype}"
                )
        return dtype

    @property
    def is_local(self) -> bool:
        """Whether this rank holds all of it."""
        return not any(member.layout.spread.groups for member in self.members)


@final
@dataclass(frozen=True)
class KeepLargestProduct(Rule):
    """Elements with |g * w| >= threshold, ties included."""

    threshold: Tensor  # no dimensions
    weight: Tensor  # flat, in the order of the gradient's memory

    def keeps(self, chunk: Tensor, start: int) -> Tensor | None:
        """Compare the magnitudes of the products, in the wider of the two dtypes."""
        products = (chunk * self.weight[start : start + chunk.numel()]).to(chunk.dtype).abs()
        wide = torch.promote_types(products.dtype, self.threshold.dtype)
        return products.to(wide) >= self.threshold.to(device=chunk.device, dtype=wide)


@torch.no_grad()
def saliency_thresholds(pools: Sequence[Pool], saliency: Saliency) -> list[Tensor]:
    """The exact `kept`-th largest |g|, or |g * w|, of each pool; no dimensions.

    Raises NonFiniteGradientError with the index of a pool that holds NaN or infinity, on every
    rank that holds a part of it.
    """
    counted: dict[torch.dtype, list[int]] = {}
    alone, joint = list[int](), list[int]()
    for index, pool in enumerate(pools):
        if saliency == "product" or not pool.is_local:
            counted.setdefault(pool.dtype, []).append(index)
        else:
            (alone if len(pool.members) == 1 else joint).append(index)
    found: dict[int, Tensor] = {}
    # What needs other ranks comes first: an error of this rank alone must not keep them waiting.
    for dtype, indices in counted.items():
        for first in range(0, len(indices), _POOLS_AT_ONCE):
            batch = indices[first : first + _POOLS_AT_ONCE]
            found |= _indexed(batch, partial(_by_counts, dtype=dtype, saliency=saliency), pools)
    found |= _indexed(alone, _each_alone, pools)
    found |= _indexed(joint, _each_jointly, pools)
    return [found[index] for index in range(len(pools))]


def _indexed(
    indices: Sequence[int],
    select: Callable[[Sequence[Pool]], list[Tensor]],
    pools: Sequence[Pool],
) -> dict[int, Tensor]:
    """Select for some of the pools; an error's index counts among all of them."""
    try:
        return dict(zip(indices, select([pools[i] for i in indices]), strict=True))
    except NonFiniteGradientError as error:
        index = None if error.index is None else indices[error.index]
        raise NonFiniteGradientError(str(error), index) from None


def _each_alone(pools: Sequence[Pool]) -> list[Tensor]:
    gradients = [pool.members[0].gradient for pool in pools]
    return magnitude_thresholds(gradients, [pool.kept for pool in pools])


def _each_jointly(pools: Sequence[Pool]) -> list[Tensor]:
    return [pooled_threshold([m.gradient for m in pool.members], pool.kept) for pool in pools]


def _by_counts(pools: Sequence[Pool], dtype: torch.dtype, saliency: Saliency) -> list[Tensor]:
    """Fix the bits of every pool's answer from the top, one digit with each pass."""
    prefixes, ranks = [0] * len(pools), torch.tensor([pool.kept for pool in pools])
    low = dtype.itemsize * 8 - 1
    infinity = int(torch.tensor(torch.inf, dtype=dtype).view(_INT_OF[dtype]))
    for number, width in enumerate(_DIGITS[dtype.itemsize]):
        low -= width
        counts = _counts(pools, dtype, saliency, prefixes, low, width)
        if number == 0:  # exponents of NaN and infinity fill whole digits at the top
            bad = counts[:, infinity >> low :].sum(dim=1).nonzero()
            if bad.numel():
                raise NonFiniteGradientError(index=int(bad[0]))
        above = counts.flip(1).cumsum(1)
        steps = torch.searchsorted(above, ranks[:, None])
        earlier = torch.where(steps > 0, above.gather(1, (steps - 1).clamp(min=0)), 0)
        ranks = ranks - earlier[:, 0]
        digits = (counts.shape[1] - 1 - steps[:, 0]).tolist()
        prefixes = [
            prefix << width | digit for prefix, digit in zip(prefixes, digits, strict=True)
        ]
    return [
        torch.tensor(bits, dtype=_INT_OF[dtype], device=pool.members[0].gradient.device).view(
            dtype
        )
        for bits, pool in zip(prefixes, pools, strict=True)
    ]


def _counts(
    pools: Sequence[Pool],
    dtype: torch.dtype,
    saliency: Saliency,
    prefixes: Sequence[int],
    low: int,
    width: int,
) -> Tensor:
    """How many elements of each pool continue its prefix with each digit: (pools, 2**width)."""
    parts: dict[Spread, list[tuple[int, LocalGradient]]] = {}
    for row, pool in enumerate(pools):
        for member in pool.members:
            parts.setdefault(member.layout.spread, []).append((row, member))
    total = torch.zeros(len(pools), 1 << width, dtype=torch.int64)
    for spread, members in parts.items():
        rows = sorted({row for row, _ in members})
        counts = torch.zeros(len(rows), 1 << width, dtype=torch.int64)
        for row, member in members:
            line = counts[rows.index(row)]
            for bits in _bits(member, dtype, saliency):
                line += _count(bits, prefixes[row], low, width).cpu()
        total[rows] += all_summed(counts, spread)
    return total


def _bits(member: LocalGradient, dtype: torch.dtype, saliency: Saliency) -> Iterator[Tensor]:
    """Chunks of the saliencies read as integers, which sort as they do."""
    chunks = member.products() if saliency == "product" else chunks_of(member.gradient)
    for _, chunk in chunks:
        yield chunk.to(dtype).view(_INT_OF[dtype]) & torch.iinfo(_INT_OF[dtype]).max


def _count(bits: Tensor, prefix: int, low: int, width: int) -> Tensor:
    """One digit's histogram of the elements that begin with the prefix."""
    top = low + width
    if top < bits.itemsize * 8 - 1:
        bits = bits[(bits >> top) == prefix]
    return torch.bincount((bits >> low) & ((1 << width) - 1), minlength=1 << width)
