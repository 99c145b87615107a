"""Run by test_kernels.py in a process of its own, with Triton's interpreter."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from gmt_core import kernel_select, kernels
from gmt_core.errors import NonFiniteGradientError
from gmt_core.flat import from_bits
from gmt_core.magnitudes import plain_pool
from gmt_core.radix import radix_select

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def draw(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(70, 1001, generator=generator)  # more than one span
    ties = (torch.randn(300, generator=generator) * 2).round() / 2
    zeros = torch.where(torch.rand(999, generator=generator) < 0.7, 0.0, -normal[0, :999])
    tensors = [normal, ties, zeros, torch.full((7,), -0.25), torch.ones(1), normal[:5].t() * 1e-3]
    return [t.to(dtype) for t in tensors]


def by_sorting(tensors: list[Tensor], kept: int) -> Tensor:
    together = torch.cat([t.abs().flatten() for t in tensors])
    return together.sort(descending=True).values[kept - 1]


def thresholds(pools: list[list[Tensor]], kept: list[int], dtype: torch.dtype) -> list[Tensor]:
    """Digit by digit, and by a sample: the same."""
    own = [plain_pool(pool, dtype) for pool in pools]
    selected = kernel_select.select(kernels, own, kept, dtype)
    assert torch.equal(selected, radix_select(kernels.KernelCounter(own), kept, dtype))
    return list(from_bits(selected, dtype).unbind())


def aligned(dtype: torch.dtype) -> list[Tensor]:
    """Sizes that vector loads can read, more than one tile and more than one span."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(9, 576), (576,), (8,), (71, 1000)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def check_thresholds_and_masks(gradients: list[Tensor], share: float) -> None:
    dtype = gradients[0].dtype
    kept = [max(1, math.ceil(share * g.numel())) for g in gradients]
    found = thresholds([[g] for g in gradients], kept, dtype)
    for threshold, gradient, count in zip(found, gradients, kept, strict=True):
        assert threshold.shape == () and threshold.dtype == dtype
        assert torch.equal(threshold, by_sorting([gradient], count))
    masked = [g.clone(memory_format=torch.preserve_format) for g in gradients]
    kernels.mask_(masked, found)
    counted = [g.clone(memory_format=torch.preserve_format) for g in gradients]
    counts = kernels.mask_and_count_(counted, found)
    assert all(torch.equal(a, b) for a, b in zip(masked, counted, strict=True))
    for stay, before, threshold in zip(counts.tolist(), gradients, found, strict=True):
        assert stay == int((before.abs() >= threshold).sum())
    for after, before, threshold in zip(masked, gradients, found, strict=True):
        expected = torch.where(before.abs() >= threshold, before, torch.zeros_like(before))
        integer = torch.int16 if dtype.itemsize == 2 else torch.int32
        assert torch.equal(after.view(integer), expected.view(integer))


def check_pooled(dtype: torch.dtype) -> None:
    gradients = [*draw(dtype), torch.empty(0, dtype=dtype)]
    pools = [gradients[:2], gradients[2:]]
    kept = [sum(g.numel() for g in pool) // 3 for pool in pools]
    found = thresholds(pools, kept, dtype)
    for threshold, pool, count in zip(found, pools, kept, strict=True):
        assert torch.equal(threshold, by_sorting(pool, count))


def check_non_finite(dtype: torch.dtype, bad: float) -> None:
    gradients = draw(dtype)
    gradients[2][5] = bad
    try:
        thresholds([[g] for g in gradients], [1] * len(gradients), dtype)
    except NonFiniteGradientError as error:
        assert error.index == 2
    else:
        raise AssertionError(f"{bad} went unnoticed")


def check_samples(dtype: torch.dtype) -> None:
    """Of pools with several members and spans, and of steps that divide none of them."""
    tensors = [*draw(dtype), torch.empty(0, dtype=dtype)]
    pools = [plain_pool(part, dtype) for part in (tensors[:2], tensors[2:])]
    found = kernels.sampled(pools, [7, 3])
    span = kernels._SPAN
    for row, pool, step in zip(found, pools, (7, 3), strict=True):
        spans = [part for member in pool for part in member.bits(slice(None)).split(span)]
        expected = torch.cat([part[::step] for part in spans]).to(torch.int32)
        assert kernels.sample_size(pool, step) == expected.numel()
        assert torch.equal(row[: expected.numel()], expected)
        assert (row[expected.numel() :] == -1).all()


def check_guesses(dtype: torch.dtype) -> None:
    """How many of the pools are decided in one pass, where each is large."""
    drawn = [each for each in (*draw(dtype), *aligned(dtype)) if each.numel() > 1000]
    pools = [plain_pool([each], dtype) for each in drawn]
    for share in (1e-3, 0.5, 1.0):
        kept = [max(1, math.ceil(share * each.numel())) for each in drawn]
        decided = [
            place
            for batch in kernel_select._batches(kernels, pools, kept, dtype)
            for place in kernel_select._decided(kernels, batch, pools, kept, dtype)[0]
        ]
        normal = [place for place, each in enumerate(drawn) if each.unique().numel() > 900]
        assert set(decided) >= set(normal), (dtype, share, decided, normal)


if __name__ == "__main__":
    torch.set_num_threads(1)
    kernel_select._LARGE, kernel_select._LEAST = 1000, 512  # type: ignore[misc]
    kernel_select._GATHERED = 1 << 17  # type: ignore[misc]
    for dtype in DTYPES:
        for share in (0.0, 0.3, 1.0):
            for gradients in (draw(dtype), aligned(dtype)):
                check_thresholds_and_masks(gradients, share)
        check_pooled(dtype)
        check_samples(dtype)
        check_guesses(dtype)
    for dtype, bad in itertools.product(DTYPES, (math.nan, -math.inf)):
        check_non_finite(dtype, bad)
    print("kernels agree with a full sort")
