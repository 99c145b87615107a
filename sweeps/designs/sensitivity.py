"""Does the mask ratio matter: each with the same seeds, the best one again on fresh ones."""

from __future__ import annotations

from typing import final

from sweeps.designs.design import Design, Plan
from sweeps.designs.point import DesignPoint
from sweeps.report.data import TrialRow
from sweeps.report.settings import SFT, Rows, Setting, setting_at, winner


@final
class SensitivityDesign(Design):
    """The paper's Figure 2, with replicates; the masking method is the sweep's."""

    arms = ("mask_ratio",)

    def __init__(self, plan: Plan, ratios: tuple[float, ...], method: str) -> None:
        super().__init__(plan)
        self.ratios, self.method = tuple(sorted(ratios)), method

    def settings(self) -> list[Setting]:
        """One arm for each ratio."""
        return [setting_at(ratio, self.method) for ratio in self.ratios]

    def further(self, rows: Rows) -> list[DesignPoint]:
        """The best masked ratio and SFT on fresh seeds: what is left of the lead is no luck."""
        best = winner(self.ratios, rows, self.method)
        if best is None:
            return []
        return [*self.fresh(setting_at(best, self.method), rows), *self.fresh(SFT, rows)]

    def keeps_model(self, row: TrialRow, rows: Rows) -> bool:
        """Only models of fresh seeds: they alone are tested."""
        return row.stage == "fresh"

    def tested(self, rows: Rows) -> list[TrialRow]:
        """The fresh trials of the winner, and of SFT."""
        wanted = set(self.further(rows))
        return [r for r in rows if r.state == "finished" and DesignPoint.of(r) in wanted]
