"""What is kept of one gradient, and the one pass that applies it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from gmt_core.accelerated import kernels_for
from gmt_core.flat import INT_OF, chunks_of, flat_view
from gmt_core.magnitudes import Saliency, salient
from gmt_core.permutation import Permutation


class Rule(ABC):
    """Decides, element by element, what of one gradient stays."""

    @abstractmethod
    def keeps(self, chunk: Tensor, start: int) -> Tensor | None:
        """Which elements of a flat chunk stay: bool, chunk's shape; None where all do.

        `start` is the place of the chunk's first element in the flat gradient.
        """

    def zero_(self, gradient: Tensor) -> None:
        """Zero in place what does not stay; what stays is left bit for bit."""
        for start, chunk in chunks_of(gradient):
            keeps = self.keeps(chunk, start)
            if keeps is not None:
                chunk.masked_fill_(keeps.logical_not_(), 0)

    def zero_and_count_(self, gradient: Tensor) -> Tensor:
        """As `zero_`; returns how many elements stay: int64, no dimensions."""
        kept = torch.zeros((), dtype=torch.int64, device=gradient.device)
        for start, chunk in chunks_of(gradient):
            keeps = self.keeps(chunk, start)
            if keeps is None:
                kept += chunk.numel()
            else:
                kept += keeps.count_nonzero()
                chunk.masked_fill_(keeps.logical_not_(), 0)
        return kept


@final
@dataclass(frozen=True)
class KeepAll(Rule):
    """The gradient as it is (SFT)."""

    def keeps(self, chunk: Tensor, start: int) -> Tensor | None:
        """Keep everything."""
        return None


@final
@dataclass(frozen=True)
class KeepLargest(Rule):
    """Elements with |g| >= threshold, so that ties stay (the paper's Algorithm 1)."""

    threshold: Tensor  # no dimensions

    def keeps(self, chunk: Tensor, start: int) -> Tensor | None:
        """Compare magnitudes with the threshold, in the wider of the two dtypes."""
        return _at_least(chunk, self.threshold)

    def zero_(self, gradient: Tensor) -> None:
        """One operation and no temporary: what a hard shrinkage at the next value below keeps."""
        below = self.below(gradient.dtype)
        if below >= 0.0:
            flat = flat_view(gradient)
            torch.ops.aten.hardshrink.out(flat, below, out=flat)

    def zero_and_count_(self, gradient: Tensor) -> Tensor:
        """What stays is not zero, unless all of it stays."""
        self.zero_(gradient)
        if float(self.threshold):
            return gradient.count_nonzero()
        return torch.tensor(gradient.numel(), device=gradient.device)

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

    def keeps(self, chunk: Tensor, start: int) -> Tensor | None:
        """Compare magnitudes, in the wider of the two dtypes."""
        found = salient(chunk, self.weight[start : start + chunk.numel()], self.saliency)
        return _at_least(found, self.threshold)


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

    def keeps(self, chunk: Tensor, start: int) -> Tensor | None:
        """Keep what the permutation sends to the first `kept` places."""
        return self.permutation(start, start + chunk.numel(), chunk.device) < self.kept


@dataclass(frozen=True)
class Tally:
    """Counts and squared norms of gradients before and after masking."""

    numel: int = 0
    kept: int = 0
    nonzero: int = 0
    energy: float = 0.0
    energy_kept: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            self.numel + other.numel,
            self.kept + other.kept,
            self.nonzero + other.nonzero,
            self.energy + other.energy,
            self.energy_kept + other.energy_kept,
        )


def apply_(gradient: Tensor, rule: Rule) -> None:
    """Zero in place what the rule does not keep; what it keeps stays bit for bit."""
    apply_all_((gradient,), (rule,))


@torch.no_grad()
def apply_all_(gradients: Sequence[Tensor], rules: Sequence[Rule]) -> None:
    """`apply_` to each gradient with its rule."""
    groups = defaultdict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Tensor]]](list)
    for gradient, rule in zip(gradients, rules, strict=True):
        if isinstance(rule, KeepLargest) and _has_kernels(gradient, rule.threshold):
            groups[gradient.device, gradient.dtype].append((gradient, rule.threshold))
        elif not isinstance(rule, KeepAll):
            rule.zero_(gradient)
    for (device, dtype), pairs in groups.items():
        kernels = kernels_for(device, dtype)
        if kernels is not None:
            kernels.mask_([g for g, _ in pairs], [threshold for _, threshold in pairs])


def _has_kernels(gradient: Tensor, threshold: Tensor) -> bool:
    alike = gradient.dtype == threshold.dtype and gradient.numel() > 0
    return alike and kernels_for(gradient.device, gradient.dtype) is not None


def apply_and_count_(gradient: Tensor, rule: Rule) -> Tally:
    """As `apply_`, counting on the way (two more reads, energies in float64)."""
    return apply_and_count_all_((gradient,), (rule,))[0]


@torch.no_grad()
def apply_and_count_all_(gradients: Sequence[Tensor], rules: Sequence[Rule]) -> list[Tally]:
    """`apply_and_count_` to each gradient with its rule."""
    # A table for each device: a small tensor for each number, made between larger temporaries,
    # would keep the allocator from using their memory again.
    tables = {
        device: torch.empty(len(gradients), 4, dtype=torch.float64, device=device)
        for device in dict.fromkeys(gradient.device for gradient in gradients)
    }
    for place, (gradient, rule) in enumerate(zip(gradients, rules, strict=True)):
        row = tables[gradient.device][place]
        row[1], row[2] = gradient.count_nonzero(), _energy(gradient)
        row[0] = rule.zero_and_count_(gradient)
        row[3] = row[2] if isinstance(rule, KeepAll) else _energy(gradient)
    # Read at the end, so that a device is not waited for in between.
    rows = {device: table.tolist() for device, table in tables.items()}
    return [
        _tally(gradient, rows[gradient.device][place]) for place, gradient in enumerate(gradients)
    ]


def _tally(gradient: Tensor, row: Sequence[float]) -> Tally:
    kept, nonzero, energy, energy_kept = row
    return Tally(gradient.numel(), int(kept), int(nonzero), energy, energy_kept)


def _energy(gradient: Tensor) -> Tensor:
    """The sum of squares in float64, no dimensions."""
    energy = torch.zeros((), dtype=torch.float64, device=gradient.device)
    for _, chunk in chunks_of(gradient):
        energy += torch.linalg.vector_norm(chunk, dtype=torch.float64).square_()
    return energy
