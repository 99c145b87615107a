"""Trade-offs of score and cost: the Pareto front and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from matplotlib.axes import Axes

from sweeps.report import drawing
from sweeps.report.arms import Interval
from sweeps.report.page import Cells, Drawn, table
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


ROOM = (40.0, 16.0)
"""Width and height of a point's name, in pixels of the figure."""

COST = ScoreLabel("cost", decimals=2, lowest=0.0)
NO_SPANS: Mapping[str, Interval | None] = {}
AXES = {
    "seconds": "training seconds",
    "forgetting": "bits per byte of the text of evaluation.forgetting",
    "kept_fraction": "kept fraction of gradient elements",
}


def front(
    part: Drawn,
    label: ScoreLabel,
    axis: str,
    kind: str,
    points: Mapping[str, tuple[float, float]],
    spans: Mapping[str, Interval | None] = NO_SPANS,
) -> Drawn:
    """The part with all (score, cost) points by name, a `kind`, and the Pareto front in colour.

    `spans`: the intervals of costs by name, if these are means.
    """
    best = {list(points)[index] for index in pareto_front(list(points.values()))}
    figure, axes = drawing.canvas(axis, label.text)
    rows: list[Cells] = []
    for name, (score, cost) in points.items():
        is_best, height = name in best, label.shown(score)
        colour = drawing.PINK if is_best else drawing.GREY
        axes.scatter(cost, height, color=colour, s=42, zorder=3)
        if (span := spans.get(name)) is not None:
            axes.hlines(height, span.low, span.high, color=drawing.GREY, zorder=2)
        shown = {kind: name, label.text: label.number(score), axis: f"{cost:.2f}"}
        shown |= {"95 % of the cost": COST.interval(spans[name])} if name in spans else {}
        rows.append({**shown, "on the front": "yes" if is_best else "no"})
    in_order = sorted(points, key=lambda name: name not in best)
    _name_points(axes, {n: (points[n][1], label.shown(points[n][0])) for n in in_order})
    return replace(part, figure=figure, table=table(rows))


def _name_points(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write the names beside the points, in this order, where they cover no earlier one."""
    taken: list[tuple[float, float]] = []
    near: drawing.Style = {"xytext": (5, 4), "textcoords": "offset points"}
    for name, place in points.items():
        x, y = axes.transData.transform(place)
        if all(abs(x - a) > ROOM[0] or abs(y - b) > ROOM[1] for a, b in taken):
            axes.annotate(name, place, fontsize=9, color=drawing.INK, **near)
            taken.append((x, y))


def search_fronts(data: StudyData) -> list[Drawn]:
    """A figure for each objective other than the score."""
    drawn = []
    for objective in data.objectives[1:]:
        key = f"objective/{objective}"
        rows = [row for row in scored(data.rows) if key in row.metrics]
        points = {str(row.number): (row.score or 0.0, row.metrics[key]) for row in rows}
        caption = (
            "Numbers are trials; pink ones are on the Pareto front: no other trial has a "
            "higher score at the same or lower cost. Each is one seed on the validation items."
        )
        if len(points) < 2:
            caption = "Requires two finished trials."
        part = Drawn(f"front_{objective}", f"Score and {objective.replace('_', ' ')}", caption)
        axis = AXES[objective]
        drawn.append(front(part, data.label, axis, "trial", points) if len(points) > 1 else part)
    return drawn
