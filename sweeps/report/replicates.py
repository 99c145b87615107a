"""Replicates of a search's best points with new seeds, which show how much of a lead is luck."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean, stdev
from typing import final

from sweeps.report.page import NO_VALUE, section, table
from sweeps.report.trial_row import StudyData, TrialRow, best_first, distinct, scored


@final
@dataclass(frozen=True)
class Repeated:
    """A trial of the search, and the scores of its point with other seeds."""

    trial: TrialRow
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean without the search's own score, because that score selected the point."""
        return mean(self.scores)

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds; None for a single seed."""
        return stdev(self.scores) if len(self.scores) > 1 else None


def repeated(rows: tuple[TrialRow, ...], replicates: tuple[TrialRow, ...]) -> list[Repeated]:
    """Each replicated trial of the search, best score first."""
    found: list[Repeated] = []
    for row in distinct(best_first(rows)):
        again = [other.score for other in scored(replicates) if row.same_point(other)]
        scores = tuple(score for score in again if score is not None)
        if scores:
            found.append(Repeated(row, scores))
    return found


def render(data: StudyData) -> str:
    """The section of a search's page; empty without replicates."""
    found = repeated(data.rows, data.replicates)
    if not found:
        return ""
    heads = ["trial", f"{data.label.text} in the search", "mean of other seeds", "spread", "seeds"]
    rows = [
        [
            str(one.trial.number),
            data.label.number(one.trial.score or 0.0),
            data.label.number(one.mean),
            NO_VALUE if one.spread is None else f"{one.spread:.{data.label.decimals}f}",
            str(len(one.scores)),
        ]
        for one in found
    ]
    return section(
        "The best points with other seeds",
        table(heads, rows) + '<p class="small">Spread is the standard deviation over seeds. These '
        "scores are not used for selection: the best trial stays the one the search chose.</p>",
    )
