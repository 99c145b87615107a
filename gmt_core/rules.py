"""What is kept of one gradient, and the one pass that applies it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Final, final

import torch
from torch import Tensor

from gmt_core.accelerated import kernels_for
from gmt_core.flat import INT_OF, chunks_of, count_true, flat_view, sampled
from gmt_core.magnitudes import Saliency, salient
from gmt_core.permutation import Permutation

_COUNTED: Final = 1 << 20  # elements masked, and counted, at once: they stay in the cache


class Rule(ABC):
    """Decides, element by element, what of one gradient stays."""

    @abstractmethod
    def keeps(self, chunk: Tensor, start: int) -> Tensor:
        """Which elements of a flat chunk stay: bool, chunk's shape; the caller may overwrite it.

        `start` is the place of the chunk's first element in the flat gradient.
        """

    def zero_(self, gradient: Tensor) -> None:
        """Zero in place what does not stay; what stays is left bit for bit."""
        for start, chunk in chunks_of(gradient):
            chunk.masked_fill_(self.keeps(chunk, start).logical_not_(), 0)

    def zero_and_count_(self, gradient: Tensor, kept: Tensor) -> None:
        """As `zero_`; adds to `kept`, without dimensions, how many elements stay."""
        for start, chunk in chunks_of(gradient):
            keeps = self.keeps(chunk, start)
            kept += count_true(keeps)
            chunk.masked_fill_(keeps.logical_not_(), 0)

    def keeps_of(self, values: Tensor, gradient: Tensor, sample: slice) -> Tensor:
        """Which of the sampled elements stay, in the order of the gradient's memory: bool.

        The sample has a start and a step, and `values` are its elements. A rule that can look at
        single elements does better than this.
        """
        number = len(range(gradient.numel())[sample])
        found = torch.empty(number, dtype=torch.bool, device=gradient.device)
        first, done = sample.start, 0
        for start, chunk in chunks_of(gradient):
            keeps, count = self.keeps(chunk, start), len(range(first, chunk.numel(), sample.step))
            found[done : done + count] = keeps[first :: sample.step]
            first, done = first + count * sample.step - chunk.numel(), done + count
        return found


@final
@dataclass(frozen=True)
class KeepAll(Rule):
    """The gradient as it is (SFT)."""

    def keeps(self, chunk: Tensor, start: int) -> Tensor:
        """Keep everything."""
        return torch.ones_like(chunk, dtype=torch.bool)

    def zero_and_count_(self, gradient: Tensor, kept: Tensor) -> None:
        """Count everything, in whatever memory layout."""
        kept += gradient.numel()

    def keeps_of(self, values: Tensor, gradient: Tensor, sample: slice) -> Tensor:
        """Keep everything."""
        return torch.ones_like(values, dtype=torch.bool)


@final
@dataclass(frozen=True)
class KeepLargest(Rule):
    """Elements with |g| >= threshold, so that ties stay (the paper's Algorithm 1)."""

    threshold: Tensor  # no dimensions

    def keeps(self, chunk: Tensor, start: int) -> Tensor:
        """Compare magnitudes with the threshold, in the wider of the two dtypes."""
        return _at_least(chunk, self.threshold)

    def zero_(self, gradient: Tensor) -> None:
        """A few operations on each part that the cache holds."""
        below = self.below(gradient.dtype)
        if below >= 0.0:
            for part in flat_view(gradient).split(_COUNTED):
                _shrink_(part, below)

    def zero_and_count_(self, gradient: Tensor, kept: Tensor) -> None:
        """What stays is not zero, unless all of it stays."""
        below = self.below(gradient.dtype)
        if below < 0.0:
            kept += gradient.numel()
            return
        for part in flat_view(gradient).split(_COUNTED):
            _shrink_(part, below)
            # What is dropped has no sign, so that all its bits are 0; the cast is fast.
            kept += count_true(part.view(INT_OF[part.dtype]).bool())

    def keeps_of(self, values: Tensor, gradient: Tensor, sample: slice) -> Tensor:
        """Compare the sampled magnitudes."""
        return _at_least(values, self.threshold)

    def below(self, dtype: torch.dtype) -> float:
        """The largest value of that dtype below the threshold; -1 where it is 0."""
        rounded = self.threshold.to(dtype)
        value = float(rounded)
        if value < float(self.threshold):
            return value
        # Bits of magnitudes sort as they do; those of zero have no predecessor.
        return float((rounded.view(INT_OF[dtype]) - 1).view(dtype)) if value > 0.0 else -1.0


@final
@dataclass(frozen=True)
class KeepMostSalient(Rule):
    """Elements whose saliency is at least the threshold, ties included."""

    threshold: Tensor  # no dimensions
    weight: Tensor  # flat, in the order of the gradient's memory
    saliency: Saliency

    def keeps(self, chunk: Tensor, start: int) -> Tensor:
        """Compare magnitudes, in the wider of the two dtypes."""
        found = salient(chunk, self.weight[start : start + chunk.numel()], self.saliency)
        return _at_least(found, self.threshold)

    def keeps_of(self, values: Tensor, gradient: Tensor, sample: slice) -> Tensor:
        """Compare the sampled magnitudes."""
        found = salient(values, self.weight[sample], self.saliency)
        return _at_least(found, self.threshold)


def _shrink_(flat: Tensor, below: float) -> None:
    """Zero in place what is not larger in magnitude."""
    if flat.itemsize > 2 or flat.device.type != "cpu":
        torch.ops.aten.hardshrink.out(flat, below, out=flat)
        return
    # A CPU compares 16-bit floats as float32; integers sort alike at no such cost.
    bits = flat.view(torch.int16)
    limit = int(torch.tensor(below, dtype=flat.dtype).view(torch.int16))
    torch.ops.aten.threshold_backward.grad_input(bits, bits & 0x7FFF, limit, grad_input=bits)


def _at_least(values: Tensor, threshold: Tensor) -> Tensor:
    wide = torch.promote_types(values.dtype, threshold.dtype)
    # A tensor without dimensions would be rounded to the values' dtype, and ties with it.
    return values.abs().to(wide) >= threshold.to(device=values.device, dtype=wide)


@final
@dataclass(frozen=True)
class KeepRandom(Rule):
    """Exactly `kept` elements, chosen by a keyed permutation."""

    permutation: Permutation
    kept: int

    def keeps(self, chunk: Tensor, start: int) -> Tensor:
        """Keep what the permutation sends to the first `kept` places."""
        return self.permutation(start, start + chunk.numel(), chunk.device) < self.kept

    def keeps_of(self, values: Tensor, gradient: Tensor, sample: slice) -> Tensor:
        """Keep what the permutation sends there, of the sampled places."""
        return self.permutation.of_places(sampled(gradient, sample)) < self.kept


def apply_(gradient: Tensor, rule: Rule) -> None:
    """Zero in place what the rule does not keep; what it keeps stays bit for bit."""
    apply_all_((gradient,), (rule,))


@torch.no_grad()
def apply_all_(gradients: Sequence[Tensor], rules: Sequence[Rule]) -> None:
    """`apply_` to each gradient with its rule."""
    for places, kernels in _launches(gradients, rules):
        if kernels is not None:
            kernels.mask_([gradients[i] for i in places], _thresholds(rules, places))
        elif not isinstance(rule := rules[places[0]], KeepAll):
            rule.zero_(gradients[places[0]])


@torch.no_grad()
def apply_and_count_all_(gradients: Sequence[Tensor], rules: Sequence[Rule]) -> list[Tensor]:
    """`apply_` to each gradient with its rule; how many elements of each stay.

    int64, no dimensions, on the gradient's device: nothing is read.
    """
    # A table for each device: a small tensor for each number, made between larger temporaries,
    # would keep the allocator from using their memory again.
    tables = {
        device: torch.zeros(len(gradients), dtype=torch.int64, device=device)
        for device in dict.fromkeys(gradient.device for gradient in gradients)
    }
    rows = [tables[gradient.device][place] for place, gradient in enumerate(gradients)]
    for places, kernels in _launches(gradients, rules):
        if kernels is not None:
            counts = kernels.mask_and_count_(
                [gradients[i] for i in places], _thresholds(rules, places)
            )
            tables[counts.device][places] = counts
        else:
            rules[places[0]].zero_and_count_(gradients[places[0]], rows[places[0]])
    return rows


def _launches(
    gradients: Sequence[Tensor], rules: Sequence[Rule]
) -> Iterator[tuple[list[int], ModuleType | None]]:
    """The places of gradients that a kernel masks together, then all others one by one."""
    groups = defaultdict[tuple[torch.device, torch.dtype], list[int]](list)
    others = list[int]()
    for place, (gradient, rule) in enumerate(zip(gradients, rules, strict=True)):
        together = isinstance(rule, KeepLargest) and _has_kernels(gradient, rule.threshold)
        (groups[gradient.device, gradient.dtype] if together else others).append(place)
    yield from ((places, kernels_for(*kind)) for kind, places in groups.items())
    yield from (([place], None) for place in others)


def _has_kernels(gradient: Tensor, threshold: Tensor) -> bool:
    alike = gradient.dtype == threshold.dtype and gradient.numel() > 0
    return alike and kernels_for(gradient.device, gradient.dtype) is not None


def _thresholds(rules: Sequence[Rule], places: Sequence[int]) -> list[Tensor]:
    return [rule.threshold for i in places if isinstance(rule := rules[i], KeepLargest)]
