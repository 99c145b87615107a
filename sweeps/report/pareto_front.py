"""Trade-offs of score and cost: the Pareto front and its figures, and the best score so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from matplotlib.figure import Figure

from sweeps.report.page import GREY, INK, SFT_COLOUR, Drawn, canvas, table
from sweeps.report.trial_row import ScoreLabel, StudyData, scored


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the non-dominated (score, cost) points, ascending by cost.

    High scores and low costs are good. Of equal points, the first is kept.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][0], i))
    front: list[int] = []
    for index in order:
        if not front or points[index][0] > points[front[-1]][0]:
            front.append(index)
    return front


def best_so_far(scores: Sequence[float]) -> list[float]:
    """The running maximum of the scores."""
    best: list[float] = []
    for score in scores:
        best.append(max(score, best[-1]) if best else score)
    return best


AXES = {
    "seconds": "training seconds",
    "kept_fraction": "kept fraction of gradient elements",
}


@final
@dataclass(frozen=True)
class Front:
    """Named (score, cost) points; low costs are good.

    `what`: the kind of the names. `cost`: the name of the cost.
    """

    what: str
    cost: str
    names: Sequence[str]
    points: Sequence[tuple[float, float]]

    def best(self) -> set[int]:
        """The indices of the points on the Pareto front."""
        return set(pareto_front(self.points))

    def figure(self, label: ScoreLabel, axis: str) -> Figure:
        """All points, with the front in colour."""
        best = self.best()
        figure, axes = canvas(axis, label.text)
        for index, (score, cost) in enumerate(self.points):
            colour, place = SFT_COLOUR if index in best else GREY, (cost, label.shown(score))
            axes.scatter(*place, color=colour, s=42, zorder=3)
            axes.annotate(
                self.names[index],
                place,
                xytext=(5, 4),
                textcoords="offset points",
                fontsize=9,
                color=INK,
            )
        return figure

    def table(self, label: ScoreLabel) -> str:
        """The same points as a table."""
        best = self.best()
        rows = [
            [name, label.number(score), f"{cost:.2f}", "yes" if i in best else "no"]
            for i, (name, (score, cost)) in enumerate(zip(self.names, self.points, strict=True))
        ]
        return table([self.what, label.text, self.cost, "on the front"], rows)


def search_fronts(data: StudyData) -> list[Drawn]:
    """A figure for each objective other than the score."""
    drawn = []
    for objective in data.objectives[1:]:
        name, title = f"front_{objective}", f"Score and {objective.replace('_', ' ')}"
        key = f"objective/{objective}"
        rows = [row for row in scored(data.rows) if key in row.metrics]
        points = [(row.score or 0.0, row.metrics[key]) for row in rows]
        front = Front("trial", objective, [str(row.number) for row in rows], points)
        if len(points) < 2:
            drawn.append(Drawn(name, title, "Requires two finished trials."))
            continue
        caption = (
            "Numbers are trials; coloured ones are on the Pareto front: no other trial has a "
            "higher score at the same or lower cost. Each is one seed on the validation items."
        )
        figure = front.figure(data.label, AXES[objective])
        drawn.append(Drawn(name, title, caption, figure, front.table(data.label)))
    return drawn
