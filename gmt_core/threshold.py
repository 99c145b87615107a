"""Exact magnitude thresholds: the kept-th largest |g|, without sorting and without a copy.

Every path returns exactly what a full sort of the magnitudes would give; they differ in speed.
16-bit floats have 32,768 magnitudes, so one histogram answers. Wider floats are bracketed by a
sample, one pass counts what lies above the bracket and gathers what lies in it, and where the
bracket misses (or too much lies in it) a radix select over the bits answers instead.
Beyond the gradients at most 16 MiB are used, whatever their size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import torch
from torch import Tensor

_INT_OF: Final = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
_CPU_CHUNK: Final = 1 << 17  # elements; several chunk-sized buffers stay in the cache
_GPU_CHUNK: Final = 1 << 20  # elements; large enough to hide the launches
_SMALL: Final = 1 << 17  # up to here one kthvalue is as fast as anything
_CANDIDATES: Final = 1 << 19  # most elements gathered: 2 MiB, and 6 MiB while selecting
_RADIX_BITS: Final = 11
_NOT_FINITE: Final = "the gradient holds NaN or infinity, so no magnitude threshold exists"


class NonFiniteGradientError(ValueError):
    """A gradient holds NaN or infinity; `index` is its position where that is known."""

    def __init__(self, message: str = _NOT_FINITE, index: int | None = None) -> None:
        """Keep the position beside the message, so that a caller can name the parameter."""
        super().__init__(message)
        self.index = index


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
    return max(1, numel - math.floor(Fraction(repr(float(mask_ratio))) * numel))


def magnitude_threshold(x: Tensor, kept: int) -> Tensor:
    """The exact `kept`-th largest |x|, as a tensor without dimensions of x's dtype and device.

    Raises ValueError where `kept` is not in [1, numel], NonFiniteGradientError on NaN or inf.
    """
    return pooled_threshold((x,), kept)


def magnitude_thresholds(tensors: Sequence[Tensor], kept: Sequence[int]) -> list[Tensor]:
    """The exact `kept[i]`-th largest magnitude of each tensor, as `magnitude_threshold` gives it.

    Raises NonFiniteGradientError with the index of the first tensor that holds NaN or infinity.
    """
    found = []
    for index, (tensor, count) in enumerate(zip(tensors, kept, strict=True)):
        try:
            found.append(pooled_threshold((tensor,), count))
        except NonFiniteGradientError as error:
            raise NonFiniteGradientError(str(error), index) from None
    return found


@torch.no_grad()
def pooled_threshold(tensors: Sequence[Tensor], kept: int) -> Tensor:
    """The exact `kept`-th largest magnitude among the elements of all tensors together.

    The result has the promoted dtype of the tensors, and the device of the first.
    """
    pool = _Pool.of(tensors)
    if not 1 <= kept <= pool.numel:
        raise ValueError(f"kept: expected a count in [1, {pool.numel}], found {kept}")
    if pool.dtype.itemsize == 2:
        return _histogram_select(pool, kept)
    if pool.numel <= _SMALL:
        return _direct_select(pool, kept)
    found = _bracketed_select(pool, kept)
    return _radix_select(pool, kept) if found is None else found


def flat_view(x: Tensor) -> Tensor:
    """All elements of x in the order of its memory, shape (numel,), sharing that memory.

    Raises ValueError where x is not one block of memory (an expanded or sliced tensor).
    """
    if x.is_contiguous():
        return x.view(-1)
    if not _is_dense(x):
        raise ValueError(
            f"gradient of shape {tuple(x.shape)} and strides {x.stride()}: expected a dense block "
            "of memory; call .contiguous() on it first"
        )
    return x.as_strided((x.numel(),), (1,))


def _is_dense(x: Tensor) -> bool:
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
    size = _CPU_CHUNK if x.device.type == "cpu" else _GPU_CHUNK
    for start in range(0, flat.numel(), size):
        yield start, flat[start : start + size]


@dataclass(frozen=True)
class _Pool:
    """Flat views over which one selection runs, and the dtype in which they are compared."""

    flats: tuple[Tensor, ...]
    numel: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> _Pool:
        """Drop empty tensors; refuse dtypes whose bits are not ordered as the magnitudes are."""
        flats = tuple(flat_view(t.detach()) for t in tensors if t.numel())
        if not flats:
            raise ValueError("magnitude threshold: expected at least one element, found none")
        dtype = flats[0].dtype
        for flat in flats:
            if flat.dtype not in _INT_OF:
                raise ValueError(
                    f"gradient dtype: expected float16, bfloat16, float32 or float64, "
                    f"found {flat.dtype}"
                )
            dtype = torch.promote_types(dtype, flat.dtype)
        return cls(flats, sum(f.numel() for f in flats), dtype, flats[0].device)

    def values(self) -> Iterator[Tensor]:
        """Consecutive chunks, as they are (signed), in the common dtype."""
        for flat in self.flats:
            for _, chunk in chunks_of(flat):
                yield chunk.to(self.dtype)

    def bits(self) -> Iterator[Tensor]:
        """Consecutive chunks of |x| read as integers, which sort as the magnitudes do."""
        integer = _INT_OF[self.dtype]
        for chunk in self.values():
            yield chunk.view(integer) & torch.iinfo(integer).max

    def from_bits(self, bits: int) -> Tensor:
        """The magnitude whose bit pattern is `bits`."""
        return torch.tensor(bits, dtype=_INT_OF[self.dtype], device=self.device).view(self.dtype)

    def scalar(self, value: float) -> Tensor:
        """A magnitude read from this pool, as a tensor again (exact: no rounding on the way)."""
        return torch.tensor(value, dtype=self.dtype, device=self.device)


def _infinity_bits(dtype: torch.dtype) -> int:
    return int(torch.tensor(math.inf, dtype=dtype).view(_INT_OF[dtype]))


def _descend(histogram: Tensor, kept: int) -> tuple[int, int]:
    """The bin that holds the kept-th largest, and the rank of that element inside the bin."""
    above = histogram.flip(0).cumsum(0)
    steps = int(torch.searchsorted(above, kept))
    earlier = int(above[steps - 1]) if steps else 0
    return histogram.numel() - 1 - steps, kept - earlier


def _histogram_select(pool: _Pool, kept: int) -> Tensor:
    """16-bit floats: one bin for each magnitude."""
    bins = 1 << 15
    histogram = torch.zeros(bins, dtype=torch.int64)
    for bits in pool.bits():
        histogram += torch.bincount(bits, minlength=bins).cpu()
    if int(histogram[_infinity_bits(pool.dtype) :].sum()):
        raise NonFiniteGradientError
    return pool.from_bits(_descend(histogram, kept)[0])


def _direct_select(pool: _Pool, kept: int) -> Tensor:
    """Few elements: kthvalue over a copy of the magnitudes."""
    chunks = [chunk.abs().to(pool.device) for chunk in pool.values()]
    magnitudes = torch.cat(chunks) if len(chunks) > 1 else chunks[0]
    if not math.isfinite(float(magnitudes.amax())):  # amax hands NaN on
        raise NonFiniteGradientError
    return magnitudes.kthvalue(pool.numel - kept + 1).values


def _radix_select(pool: _Pool, kept: int) -> Tensor:
    """Any values: fix the bits of the answer from the top, eleven with each pass."""
    total = pool.dtype.itemsize * 8 - 1
    prefix, rank, top = 0, kept, total
    while top:
        width = min(_RADIX_BITS, top)
        low = top - width
        histogram = torch.zeros(1 << width, dtype=torch.int64)
        for bits in pool.bits():
            if top == total and int(bits.amax()) >= _infinity_bits(pool.dtype):
                raise NonFiniteGradientError
            matching = bits if top == total else bits[(bits >> top) == prefix]
            digits = (matching >> low) & ((1 << width) - 1)
            histogram += torch.bincount(digits, minlength=1 << width).cpu()
        digit, rank = _descend(histogram, rank)
        prefix, top = (prefix << width) | digit, low
    return pool.from_bits(prefix)


def _bracket(pool: _Pool, kept: int) -> tuple[float, float] | None:
    """Magnitudes (low, high) between which the answer lies with near certainty.

    None where so much would lie between them that gathering it is not worthwhile.
    """
    wanted = min(max(pool.numel // 256, 1 << 14), 1 << 18)
    picks = []
    for flat in pool.flats:
        count = math.ceil(wanted * flat.numel() / pool.numel)
        # Multiples of a large prime visit no row or column pattern preferentially.
        places = (
            torch.arange(count, device=flat.device).mul_(2_654_435_761).remainder_(flat.numel())
        )
        picks.append(flat[places].to(pool.dtype).abs().to(pool.device))
    sample = torch.cat(picks).sort(descending=True).values
    share, size = kept / pool.numel, sample.numel()
    spread = 4.0 * math.sqrt(size * share * (1.0 - share)) + 2.0
    if 2.0 * spread / size * pool.numel > _CANDIDATES:
        return None
    first, last = math.floor(share * size - spread), math.ceil(share * size + spread)
    high = float(sample[first]) if first >= 0 else math.inf
    low = float(sample[last]) if last < size else -1.0
    return low, high


def _bracketed_select(pool: _Pool, kept: int) -> Tensor | None:
    """One counting pass around a sampled bracket; None where the bracket does not decide."""
    bracket = _bracket(pool, kept)
    if bracket is None:
        return None
    low, high = bracket
    above, within, inside = 0, 0, list[Tensor]()
    largest = torch.zeros((), dtype=pool.dtype, device=pool.device)
    for chunk in pool.values():
        magnitudes = chunk.abs()
        largest = torch.maximum(largest, magnitudes.amax().to(pool.device))
        over = magnitudes >= high
        found = magnitudes[(magnitudes > low).logical_xor_(over)]
        above += int(over.count_nonzero())
        within += found.numel()
        if within > _CANDIDATES:
            return None
        inside.append(found.to(pool.device))
    if not math.isfinite(float(largest)):
        raise NonFiniteGradientError
    if above >= kept:  # the answer is `high` itself, among its ties, or lies above the bracket
        strictly = sum(int((chunk.abs() > high).count_nonzero()) for chunk in pool.values())
        return pool.scalar(high) if strictly < kept else None
    if above + within >= kept:
        candidates = torch.cat(inside)
        return candidates.kthvalue(within - (kept - above) + 1).values
    reaching = sum(int((chunk.abs() >= low).count_nonzero()) for chunk in pool.values())
    return pool.scalar(low) if reaching >= kept else None
