"""Gradients as flat blocks of memory, and magnitudes as integers that sort as they do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Final

import torch
from torch import Tensor

INT_OF: Final = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
_CPU_CHUNK: Final = 1 << 17  # elements; several chunk-sized buffers stay in the cache
_GPU_CHUNK: Final = 1 << 20  # elements; large enough to hide the launches
_COUNTED: Final = 1 << 10  # elements: of whole multiples eight bools are counted as one integer


def flat_view(x: Tensor) -> Tensor:
    """All elements of x in the order of its memory, shape (numel,), sharing that memory.

    Raises ValueError where x is not one block of memory (an expanded or sliced tensor).
    """
    if x.is_contiguous():
        return x.view(-1)
    if not is_dense(x):
        raise ValueError(
            f"gradient of shape {tuple(x.shape)} and strides {x.stride()}: expected a dense block "
            "of memory; call .contiguous() on it first"
        )
    return x.as_strided((x.numel(),), (1,))


def in_layout_of(x: Tensor, like: Tensor) -> Tensor:
    """x with its elements in the order of another tensor's memory; a copy only if it must."""
    if x.stride() == like.stride():
        return x
    return torch.empty_like(like, dtype=x.dtype).copy_(x)


def is_dense(x: Tensor) -> bool:
    """Whether x fills one block of memory, its dimensions in whatever order."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def chunks_of(x: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Views of consecutive elements in the order of memory, each with the place of its first."""
    flat = flat_view(x)
    size = chunk_size(x.device)
    for start in range(0, flat.numel(), size):
        yield start, flat[start : start + size]


def sampled(x: Tensor, sample: slice) -> Tensor:
    """The places of a tensor's elements that a slice with start and step has: int64."""
    number = len(range(x.numel())[sample])
    return torch.arange(number, device=x.device).mul_(sample.step).add_(sample.start)


def chunk_size(device: torch.device) -> int:
    """Elements that are worked on at once: what the cache holds, or what fills the device."""
    return _CPU_CHUNK if device.type == "cpu" else _GPU_CHUNK


def true_places(mask: Tensor) -> Tensor:
    """Where a flat mask of a multiple of eight elements is true: int64, shape (number,)."""
    # Most runs of eight hold none: look at them as one integer each.
    runs = mask.view(torch.int64).nonzero().squeeze(1)
    lanes = mask.view(-1, 8)[runs].view(-1).nonzero().squeeze(1)
    return runs[lanes >> 3].mul_(8).add_(lanes & 7)


def count_true(mask: Tensor) -> Tensor:
    """How many of a flat mask are true: int64, no dimensions."""
    whole = mask.numel() - mask.numel() % _COUNTED
    # The bytes of 128 integers add up without a carry.
    eights = mask[:whole].view(torch.int64).view(128, -1).sum(0)
    found = eights.view(torch.uint8).sum()
    return found if whole == mask.numel() else found + mask[whole:].count_nonzero()


def magnitude_bits(dtype: torch.dtype) -> int:
    """How many bits the magnitudes of a float dtype have: all but the sign."""
    return dtype.itemsize * 8 - 1


@cache
def infinity_bits(dtype: torch.dtype) -> int:
    """The bits of infinity: every finite magnitude lies below, every NaN above."""
    return int(torch.tensor(math.inf, dtype=dtype).view(INT_OF[dtype]))


def from_bits(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """The magnitudes whose bit patterns are `bits` (any integer dtype), in the same shape."""
    return bits.to(INT_OF[dtype]).view(dtype)


def checked_dtype(x: Tensor) -> torch.dtype:
    """The dtype of x; raises ValueError where its bits are not ordered as its magnitudes are."""
    if x.dtype not in INT_OF:
        raise ValueError(
            f"gradient dtype: expected float16, bfloat16, float32 or float64, found {x.dtype}"
        )
    return x.dtype
