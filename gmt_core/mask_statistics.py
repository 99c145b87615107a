"""What one update's masks kept."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from gmt_core.rules import KeepLargest, Rule, Tally


@dataclass(frozen=True)
class MaskStatistics:
    """Shares over all gradient elements of one update; thresholds over its masked tensors.

    `kept_fraction` is what the mask kept, ties included; under a stateful optimizer such as
    AdamW masked elements still move, so it is not the share of weights that changed.
    The thresholds are None where no tensor was masked by magnitude.
    """

    kept_fraction: float
    nonzero_fraction: float
    energy_kept: float  # share of the squared gradient norm
    threshold_min: float | None
    threshold_median: float | None
    threshold_max: float | None

    @classmethod
    def of(cls, tally: Tally, rules: Sequence[Rule]) -> MaskStatistics:
        """Read the totals; empty or all-zero gradients count as fully kept."""
        thresholds = [float(rule.threshold) for rule in rules if isinstance(rule, KeepLargest)]
        return cls(
            kept_fraction=tally.kept / tally.numel if tally.numel else 1.0,
            nonzero_fraction=tally.nonzero / tally.numel if tally.numel else 0.0,
            energy_kept=tally.energy_kept / tally.energy if tally.energy else 1.0,
            threshold_min=min(thresholds, default=None),
            threshold_median=statistics.median(thresholds) if thresholds else None,
            threshold_max=max(thresholds, default=None),
        )

    def metrics(self) -> dict[str, float]:
        """Names for a tracker ("gmt/kept_fraction", ...); thresholds only where there are any."""
        return {f"gmt/{name}": value for name, value in vars(self).items() if value is not None}
