"""Exact magnitude thresholds: the kept-th largest |g|, without sorting and without a copy.

Every path returns exactly what a full sort of the magnitudes would give; they differ in speed.
`radix` says what they share. Beyond the gradients at most 16 MiB are used, whatever their size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from types import ModuleType
from typing import Final, cast

import torch
from torch import Tensor

from gmt_core.accelerated import kernels_for
from gmt_core.block import Block
from gmt_core.bracket import bracketed_select
from gmt_core.checks import checked_ratio
from gmt_core.errors import NonFiniteGradientError
from gmt_core.flat import checked_dtype, from_bits
from gmt_core.magnitudes import LocalPool, plain_pool
from gmt_core.radix import Counter, radix_select
from gmt_core.stream import Scanner, Stream

_SMALL: Final = 1 << 17  # elements; pools up to here are handled together
_TOGETHER: Final = 1 << 18  # elements at once: about 5 MiB
_POOLS: Final = 32  # pools at once: about 2 MiB of counts


def kept_count(numel: int, mask_ratio: float) -> int:
    """How many of `numel` elements stay: max(1, numel - floor(mask_ratio * numel)); 0 of 0.

    The ratio is read as the decimal that it prints as: 0.3 of 10 elements is 3, never 2.
    """
    ratio = checked_ratio("mask_ratio", mask_ratio)
    if numel < 0:
        raise ValueError(f"numel: expected a count of elements, found {numel}")
    if numel == 0:
        return 0
    numerator, denominator = _as_fraction(ratio)
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
    pools = [plain_pool([tensor], checked_dtype(tensor)) for tensor in tensors]
    return local_thresholds(pools, kept)


@torch.no_grad()
def pooled_threshold(tensors: Sequence[Tensor], kept: int) -> Tensor:
    """The exact `kept`-th largest magnitude among the elements of all tensors together.

    The result has the promoted dtype of the tensors, and the device of the first.
    """
    filled = [tensor for tensor in tensors if tensor.numel()]
    if not filled:
        raise ValueError("magnitude threshold: expected at least one element, found none")
    dtype = checked_dtype(filled[0])
    for tensor in filled:
        dtype = torch.promote_types(dtype, checked_dtype(tensor))
    return local_thresholds([plain_pool(filled, dtype)], [kept])[0]


@torch.no_grad()
def local_thresholds(pools: Sequence[LocalPool], kept: Sequence[int]) -> list[Tensor]:
    """The exact `kept[i]`-th largest magnitude of each pool, all of it on this rank.

    Without dimensions, of the pool's dtype, on the device of its first member. Raises ValueError
    where `kept[i]` is not in [1, elements], NonFiniteGradientError with the pool's index.
    """
    found = [torch.empty(0)] * len(pools)
    scanners = {pool[0].dtype: Scanner(pool[0].dtype) for pool in pools}
    for places in _batches(pools, kept):
        batch, dtype = [pools[i] for i in places], pools[places[0]][0].dtype
        ranks = [kept[i] for i in places]
        try:
            counter = counter_of(batch, dtype)
            if isinstance(counter, Stream):
                bits = torch.tensor([bracketed_select(batch[0], ranks[0], scanners[dtype])])
            else:
                bits = radix_select(counter, ranks, dtype)
        except NonFiniteGradientError as error:
            raise NonFiniteGradientError(str(error), places[error.index or 0]) from None
        values = from_bits(bits, dtype)
        for place, value in zip(places, values.unbind(), strict=True):
            found[place] = value.to(pools[place][0].device)
    return found


def counter_of(pools: Sequence[LocalPool], dtype: torch.dtype) -> Counter:
    """What counts these pools fastest; some may be empty."""
    members = [member for pool in pools for member in pool]
    kernels = _kernels_for(members)
    if kernels is not None:
        return cast(Counter, kernels.KernelCounter(pools))
    if sum(member.numel for member in members) <= _TOGETHER:
        return Block.of(pools, dtype)
    return Stream(pools, Scanner(dtype))


def _kernels_for(members: LocalPool) -> ModuleType | None:
    """The Triton kernels, where they can read all members at once."""
    device, dtype = members[0].device, members[0].dtype
    for member in members:
        if member.weight is not None or member.device != device or member.gradient.dtype != dtype:
            return None
    return kernels_for(device, dtype)


def _batches(pools: Sequence[LocalPool], kept: Sequence[int]) -> Iterator[list[int]]:
    """The places in runs that are worked on together: a GPU's, or small ones; others alone."""
    alike = defaultdict[tuple[torch.dtype, torch.device, bool], list[int]](list)
    sizes = [sum(member.numel for member in pool) for pool in pools]
    for place, (pool, size, count) in enumerate(zip(pools, sizes, kept, strict=True)):
        if not 1 <= count <= size:
            raise ValueError(f"kept: expected a count in [1, {size}], found {count}")
        kernels = _kernels_for(pool) is not None
        if kernels or size <= _SMALL:
            alike[pool[0].dtype, pool[0].device, kernels].append(place)
        else:
            yield [place]
    for (_, _, kernels), places in alike.items():
        yield from [places] if kernels else _runs(places, sizes)


def _runs(places: Sequence[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    """Cut where more would not fit into memory together."""
    run, elements = list[int](), 0
    for place in places:
        if run and (elements + sizes[place] > _TOGETHER or len(run) == _POOLS):
            yield run
            run, elements = [], 0
        run.append(place)
        elements += sizes[place]
    yield run
