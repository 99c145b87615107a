"""What one update's masks kept."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from gmt_core.rules import KeepLargest, KeepMostSalient, Rule


@final
@dataclass(frozen=True)
class Tally:
    """Counts of the elements of gradients."""

    numel: int = 0
    kept: int = 0

    def __add__(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(self.numel + other.numel, self.kept + other.kept)

    @property
    def kept_fraction(self) -> float:
        """1 where there are no elements."""
        return self.kept / self.numel if self.numel else 1.0


@final
@dataclass(frozen=True)
class SampleSums:
    """Counts and squared norms of the sampled elements."""

    elements: float
    moved: float  # by the step
    nonzero: float
    energy: float
    energy_kept: float
    both: float  # kept by this update and the one before; 0 where that one was not seen
    either: float


@final
@dataclass(frozen=True)
class MaskStatistics:
    """What the masks of one update kept, as fractions of elements, in [0, 1].

    Kept fractions and thresholds are exact; the others are measured on a sample of about a
    million elements.
    """

    update: int
    """The update, counted from 0."""
    kept_fraction: float
    """Of gradient elements: what the mask kept, ties included."""
    nonzero_fraction: float
    """Of gradient elements: those that are not exactly 0."""
    energy_kept: float
    """The share of the squared gradient norm that was kept."""
    moved_fraction: float
    """Of weights: those that the step changed. Under AdamW masked elements still move."""
    jaccard: float | None
    """Jaccard similarity with the mask of the update before; None if that was not measured."""
    threshold_min: float | None
    """The smallest threshold of the masked tensors; None if none was masked by magnitude."""
    threshold_median: float | None
    """Their median."""
    threshold_max: float | None
    """The largest."""
    kept_by_kind: Mapping[str, float] = field(default_factory=dict)
    """The kept fraction for each kind of module (q_proj, down_proj, ...), if names are known."""

    @classmethod
    def of(
        cls,
        update: int,
        tallies: Mapping[str, Tally],
        sample: SampleSums,
        rules: Sequence[Rule],
    ) -> MaskStatistics:
        """Read the totals by kind; empty or all-zero gradients count as fully kept."""
        tally = sum(tallies.values(), Tally())
        thresholds = _thresholds(rules)
        return cls(
            update=update,
            kept_fraction=tally.kept_fraction,
            nonzero_fraction=sample.nonzero / sample.elements if sample.elements else 0.0,
            energy_kept=sample.energy_kept / sample.energy if sample.energy else 1.0,
            moved_fraction=sample.moved / sample.elements if sample.elements else 0.0,
            jaccard=sample.both / sample.either if sample.either else None,
            threshold_min=min(thresholds, default=None),
            threshold_median=statistics.median(thresholds) if thresholds else None,
            threshold_max=max(thresholds, default=None),
            kept_by_kind={kind: t.kept_fraction for kind, t in tallies.items() if kind},
        )

    def unscaled(self, loss_scale: float) -> MaskStatistics:
        """Without the scale that the loss had: thresholds are then those of the true gradients."""
        found = (self.threshold_min, self.threshold_median, self.threshold_max)
        low, median, high = (None if t is None else t / loss_scale for t in found)
        return replace(self, threshold_min=low, threshold_median=median, threshold_max=high)

    def metrics(self, *, kinds: bool = False) -> dict[str, float]:
        """The values by the names of a tracker ("gmt/kept_fraction", ...), without unknown ones.

        Args:
            kinds: also "gmt/kept_fraction/q_proj" and so on.
        """
        found = {f"gmt/{n}": v for n, v in vars(self).items() if isinstance(v, float)}
        if kinds:
            found |= {f"gmt/kept_fraction/{kind}": v for kind, v in self.kept_by_kind.items()}
        return found


def _thresholds(rules: Sequence[Rule]) -> list[float]:
    """Those of the gradients masked by magnitude; one read of each device."""
    found = defaultdict[torch.device, list[Tensor]](list)
    for rule in rules:
        if isinstance(rule, KeepLargest | KeepMostSalient):
            found[rule.threshold.device].append(rule.threshold)
    return [value for each in found.values() for value in torch.stack(each).tolist()]
