"""Exact magnitude thresholds: the kept-th largest |g|, without sorting and without a copy.

Every path returns exactly what a full sort of the magnitudes would give; they differ in speed.
`radix` says what they share. Beyond the gradients at most 16 MiB are used, whatever their size;
on a GPU 200.
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
from gmt_core.block_counter import Block
from gmt_core.bracket_select import bracketed_select
from gmt_core.checks import checked_count, checked_ratio
from gmt_core.equal_size_select import EqualSizes, together
from gmt_core.errors import NonFiniteGradientError
from gmt_core.flat import checked_dtype, from_bits
from gmt_core.kernel_select import select
from gmt_core.magnitudes import LocalPool, plain_pool
from gmt_core.radix import Counter
from gmt_core.stream_counter import Scanner, Stream

_TOGETHER: Final = 1 << 18  # elements counted at once: about 5 MiB


def kept_count(numel: int, mask_ratio: float) -> int:
    """How many elements stay: max(1, numel - floor(mask_ratio * numel)), and 0 of 0 (Eq. 3).

    Args:
        numel: the number of elements.
        mask_ratio: in [0, 1), read as the decimal that it prints as: 0.3 of 10 is 3, never 2.

    Raises:
        ValueError: a ratio outside [0, 1), or a negative number of elements.
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
    """The exact `kept`-th largest |x|, as from a full sort, without sorting (Eq. 3).

    Args:
        x: floating-point, of any shape.
        kept: in [1, numel].

    Returns:
        A tensor without dimensions, of x's dtype and device.

    Raises:
        ValueError: `kept` is out of range.
        NonFiniteGradientError: x holds NaN or infinity.
    """
    return pooled_threshold((x,), kept)


@torch.no_grad()
def magnitude_thresholds(tensors: Sequence[Tensor], kept: Sequence[int]) -> list[Tensor]:
    """`magnitude_threshold` of each tensor; faster for many tensors.

    Raises:
        ValueError: a count is out of range.
        NonFiniteGradientError: a tensor holds NaN or infinity; the error has its index.
    """
    pools = [plain_pool([tensor], checked_dtype(tensor)) for tensor in tensors]
    return local_thresholds(pools, kept)


@torch.no_grad()
def pooled_threshold(tensors: Sequence[Tensor], kept: int) -> Tensor:
    """The exact `kept`-th largest magnitude among the elements of all tensors together.

    Returns:
        A tensor without dimensions, of the tensors' promoted dtype, on the device of the first.

    Raises:
        ValueError: there are no elements, or `kept` is out of range.
        NonFiniteGradientError: a tensor holds NaN or infinity.
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
    equal: dict[tuple[torch.dtype, torch.device], EqualSizes] = {}
    for places in _batches(pools, kept):
        batch, ranks = [pools[i] for i in places], [kept[i] for i in places]
        try:
            bits = _select(batch, ranks, equal)
        except NonFiniteGradientError as error:
            raise NonFiniteGradientError(str(error), places[error.index or 0]) from None
        values = from_bits(bits, batch[0][0].dtype).to(batch[0][0].device)
        for place, value in zip(places, values.unbind(), strict=True):
            found[place] = value
    return found


def _select(
    pools: Sequence[LocalPool],
    kept: Sequence[int],
    equal: dict[tuple[torch.dtype, torch.device], EqualSizes],
) -> Tensor:
    """The bits of one batch's thresholds: int64, shape (pools,)."""
    dtype, device = pools[0][0].dtype, pools[0][0].device
    kernels = _kernels_for(pools[0])
    if kernels is not None:
        return select(kernels, pools, kept, dtype)
    if not _together(pools[0]):
        return torch.tensor([bracketed_select(pools[0], kept[0], Scanner(dtype))])
    if (dtype, device) not in equal:
        equal[dtype, device] = EqualSizes(dtype, device)
    return torch.tensor(equal[dtype, device].select([pool[0] for pool in pools], kept[0]))


def _together(pool: LocalPool) -> bool:
    """Whether it is one tensor, small enough to be handled with others of its size."""
    return len(pool) == 1 and together(pool[0].numel, pool[0].dtype) > 0


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
    """The places in runs that are worked on together: a GPU's, or equal ones; others alone."""
    alike = defaultdict[tuple[torch.dtype, torch.device, int, int], list[int]](list)
    for place, (pool, count) in enumerate(zip(pools, kept, strict=True)):
        size = sum(member.numel for member in pool)
        expected = f"a count in [1, {size}]"
        if not 1 <= checked_count("kept", count, expected) <= size:
            raise ValueError(f"kept: expected {expected}, found {count}")
        if _kernels_for(pool) is not None:
            alike[pool[0].dtype, pool[0].device, 0, 0].append(place)
        elif _together(pool):
            alike[pool[0].dtype, pool[0].device, size, count].append(place)
        else:
            yield [place]
    for (dtype, _, size, _), places in alike.items():
        most = together(size, dtype) if size else len(places)
        yield from (places[i : i + most] for i in range(0, len(places), most))
