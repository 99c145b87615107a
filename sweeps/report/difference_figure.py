"""The figure of `compare`: each benchmark's paired difference with its interval."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from evaluators.comparison import Difference
from sweeps.report.drawing import GREY, LINE_COLOUR, canvas


def difference_figure(found: Sequence[Difference], names: tuple[str, str]) -> Figure:
    """One row per benchmark, the first on top; the dashed line is no difference."""
    label = f"score of {names[0]} minus {names[1]}"
    figure, axes = canvas(label, "", (5.6, 1.2 + 0.4 * len(found)))
    rows = list(reversed(found))
    for place, each in enumerate(rows):
        axes.plot([each.low, each.high], [place, place], color=LINE_COLOUR, linewidth=2)
        axes.plot(each.difference, place, color=LINE_COLOUR, marker="o")
    axes.axvline(0.0, color=GREY, linestyle="--")
    axes.set_yticks(
        range(len(rows)), [f"{each.benchmark or 'mean of all'}, {each.n}" for each in rows]
    )
    axes.set_ylim(-0.5, len(rows) - 0.5)
    return figure
