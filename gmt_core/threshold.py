"""Exact magnitude thresholds: the kept-th largest |g|, without sorting and without a copy.

Every path returns exactly what a full sort of the magnitudes would give; they differ in speed.
Small tensors go together through `radix`, a large one alone through `interval`. Beyond the
gradients at most 16 MiB are used, whatever their size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Final, cast

import torch
from torch import Tensor

from gmt_core.accelerated import kernels_for
from gmt_core.errors import NonFiniteGradientError
from gmt_core.flat import INT_OF, checked_dtype, chunks_of, flat_view
from gmt_core.interval import Chunks, select_bits
from gmt_core.radix import radix_thresholds

__all__ = [
    "NonFiniteGradientError",
    "chunks_of",
    "flat_view",
    "kept_count",
    "magnitude_threshold",
    "magnitude_thresholds",
    "pooled_threshold",
]
_SMALL: Final = 1 << 17  # elements; tensors up to here are handled together
_TOGETHER: Final = 1 << 18  # elements at once: about 5 MiB
_POOLS: Final = 32  # tensors at once: about 2 MiB of counts


def kept_count(numel: int, mask_ratio: float) -> int:
    """How many of `numel` elements stay: max(1, numel - floor(mask_ratio * numel)); 0 of 0.

    The ratio is read as the decimal that it prints as: 0.3 of 10 elements is 3, never 2.
    """
    if not 0.0 <= mask_ratio < 1.0:
        raise ValueError(f"mask_ratio: expected a number in [0, 1), found {mask_ratio!r}")
    if numel < 0:
        raise ValueError(f"numel: expected a count of elements, found {numel}")
    if numel == 0:
        return 0
    numerator, denominator = _as_fraction(float(mask_ratio))
    return max(1, numel - numel * numerator // denominator)


@lru_cache(maxsize=64)
def _as_fraction(ratio: float) -> tuple[int, int]:
    return Fraction(repr(ratio)).as_integer_ratio()


def magnitude_threshold(x: Tensor, kept: int) -> Tensor:
    """The exact `kept`-th largest |x|, as a tensor without dimensions of x's dtype and device.

    Raises ValueError where `kept` is not in [1, numel], NonFiniteGradientError on NaN or inf.
    """
    return pooled_threshold((x,), kept)


@torch.no_grad()
def magnitude_thresholds(tensors: Sequence[Tensor], kept: Sequence[int]) -> list[Tensor]:
    """The exact `kept[i]`-th largest magnitude of each tensor, as `magnitude_threshold` gives it.

    Raises NonFiniteGradientError with the index of a tensor that holds NaN or infinity.
    """
    found = [torch.empty(0)] * len(tensors)
    together = defaultdict[tuple[torch.dtype, torch.device], list[int]](list)
    for index, (tensor, count) in enumerate(zip(tensors, kept, strict=True)):
        _check_kept(count, tensor.numel())
        kernels = kernels_for(tensor.device, checked_dtype(tensor))
        if tensor.numel() <= _SMALL or kernels is not None:
            together[checked_dtype(tensor), tensor.device].append(index)
        else:
            try:
                found[index] = pooled_threshold((tensor,), count)
            except NonFiniteGradientError as error:
                raise NonFiniteGradientError(str(error), index) from None
    for (dtype, device), alike in together.items():
        kernels = kernels_for(device, dtype)
        select = radix_thresholds if kernels is None else kernels.radix_thresholds
        for places in _batches(alike, tensors) if kernels is None else (alike,):
            try:
                pools = [[tensors[i]] for i in places]
                small = select(pools, [kept[i] for i in places], dtype)
            except NonFiniteGradientError as error:
                raise NonFiniteGradientError(str(error), places[error.index or 0]) from None
            for i, threshold in zip(places, small, strict=True):
                found[i] = threshold
    return found


def _batches(places: Sequence[int], tensors: Sequence[Tensor]) -> Iterator[list[int]]:
    """The places in runs whose tensors fit into memory together."""
    batch, elements = list[int](), 0
    for place in places:
        if batch and (elements + tensors[place].numel() > _TOGETHER or len(batch) == _POOLS):
            yield batch
            batch, elements = [], 0
        batch.append(place)
        elements += tensors[place].numel()
    yield batch


@torch.no_grad()
def pooled_threshold(tensors: Sequence[Tensor], kept: int) -> Tensor:
    """The exact `kept`-th largest magnitude among the elements of all tensors together.

    The result has the promoted dtype of the tensors, and the device of the first.
    """
    flats = [flat_view(t.detach()) for t in tensors if t.numel()]
    if not flats:
        raise ValueError("magnitude threshold: expected at least one element, found none")
    dtype = checked_dtype(flats[0])
    for flat in flats:
        dtype = torch.promote_types(dtype, checked_dtype(flat))
    numel = sum(flat.numel() for flat in flats)
    _check_kept(kept, numel)
    kernels = kernels_for(flats[0].device, dtype)
    if kernels is not None and len({(f.device, f.dtype) for f in flats}) == 1:
        return cast(Tensor, kernels.radix_thresholds([flats], [kept], dtype)[0])
    if numel <= _SMALL:
        return radix_thresholds([flats], [kept], dtype)[0]
    bits = select_bits(Chunks(flats, dtype), kept)
    return torch.tensor(bits, dtype=INT_OF[dtype], device=flats[0].device).view(dtype)


def _check_kept(kept: int, numel: int) -> None:
    if not 1 <= kept <= numel:
        raise ValueError(f"kept: expected a count in [1, {numel}], found {kept}")
