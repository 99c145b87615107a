"""What one update's masks kept."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from gmt_core.rules import KeepLargest, KeepMostSalient, Rule, Tally


@final
@dataclass(frozen=True)
class MaskStatistics:
    """Shares over all gradient elements of one update; thresholds over its masked tensors.

    `kept_fraction` is what the mask kept, ties included, and `moved_fraction` the share of
    weights that the step changed: under a stateful optimizer such as AdamW masked elements still
    move. `jaccard` compares the mask with that of the update before (None where that one was not
    seen). These two are read on a sample of the elements (see `ElementSample`). 1 -
    `nonzero_fraction` is the share of exact zeros. The thresholds are None where no tensor was
    masked by magnitude. `kept_by_kind` gives the kept fraction for each kind of module (q_proj,
    down_proj, ...) where the parameters have names.
    """

    update: int  # the one measured, counted from 0
    kept_fraction: float
    nonzero_fraction: float
    energy_kept: float  # share of the squared gradient norm
    moved_fraction: float
    jaccard: float | None
    threshold_min: float | None
    threshold_median: float | None
    threshold_max: float | None
    kept_by_kind: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        update: int,
        tallies: Mapping[str, Tally],
        rules: Sequence[Rule],
        moved_fraction: float,
        jaccard: float | None,
    ) -> MaskStatistics:
        """Read the totals by kind; empty or all-zero gradients count as fully kept."""
        tally = sum(tallies.values(), Tally())
        masked = [r for r in rules if isinstance(r, KeepLargest | KeepMostSalient)]
        thresholds = [float(rule.threshold) for rule in masked]
        return cls(
            update=update,
            kept_fraction=_kept(tally),
            nonzero_fraction=tally.nonzero / tally.numel if tally.numel else 0.0,
            energy_kept=tally.energy_kept / tally.energy if tally.energy else 1.0,
            moved_fraction=moved_fraction,
            jaccard=jaccard,
            threshold_min=min(thresholds, default=None),
            threshold_median=statistics.median(thresholds) if thresholds else None,
            threshold_max=max(thresholds, default=None),
            kept_by_kind={kind: _kept(tally) for kind, tally in tallies.items() if kind},
        )

    def unscaled(self, loss_scale: float) -> MaskStatistics:
        """Without the scale that the loss had: thresholds are then those of the true gradients."""
        found = (self.threshold_min, self.threshold_median, self.threshold_max)
        low, median, high = (None if t is None else t / loss_scale for t in found)
        return replace(self, threshold_min=low, threshold_median=median, threshold_max=high)

    def metrics(self, *, kinds: bool = False) -> dict[str, float]:
        """Names for a tracker ("gmt/kept_fraction", ...), only those that have a value.

        With `kinds` also "gmt/kept_fraction/q_proj" and so on.
        """
        found = {f"gmt/{n}": v for n, v in vars(self).items() if isinstance(v, float)}
        if kinds:
            found |= {f"gmt/kept_fraction/{kind}": v for kind, v in self.kept_by_kind.items()}
        return found


def _kept(tally: Tally) -> float:
    return tally.kept / tally.numel if tally.numel else 1.0
