"""Figures in the report's style, drawn without a display or pyplot, as PNG or SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from textwrap import fill
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluators.paired_comparison import Difference

# Small in inches, so that the text is still legible on a phone, 360 pixels wide.
SIZE_INCHES = (5.6, 4.4)
DPI = 160
INK, GREY, RULE = "#1f2933", "#8895a7", "#e4e7eb"
SFT_COLOUR, LINE_COLOUR, BAND = "#c2410c", "#334e68", "#f3c9b5"
GMT_COLOUR, VIOLET, PINK, GOOD, BAD = "#0f766e", "#805ad5", "#be185d", "#2f855a", "#c53030"
COLOURS = "viridis"
FLAT_REACH = 0.05
"""How far an axis reaches to both sides of values that are all equal."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
Style = Mapping[str, Any]
"""Keyword arguments of a drawing method."""

SFT_LINE: Style = {"color": SFT_COLOUR, "linewidth": 1.6, "linestyle": "--"}
# In a page, the colours of text and lines follow its light or dark scheme.
_THEMED = {INK: "ink", RULE: "rule", SFT_COLOUR: "sft", LINE_COLOUR: "line", BAND: "band"}
_THEMED |= {GREY: "soft", "#ffffff": "paper", GMT_COLOUR: "gmt", VIOLET: "violet"}
_THEMED |= {PINK: "pink", GOOD: "good", BAD: "bad"}
LABEL_WIDTH = 42
"""Letters in a line of an axis label; a longer label would be cut."""


def series_colour(index: int) -> str:
    """The colour of the line at `index`, of lines that have none of their own."""
    colours = (LINE_COLOUR, GMT_COLOUR, VIOLET, PINK, GOOD, GREY)
    return colours[index % len(colours)]


def canvas(
    x_label: str, y_label: str, size: tuple[float, float] = SIZE_INCHES
) -> tuple[Figure, Axes]:
    """A figure of this size in inches with labelled axes."""
    figure, (axes,) = canvases([x_label], y_label, size)
    return figure, axes


def canvases(
    x_labels: Sequence[str], y_label: str, size: tuple[float, float]
) -> tuple[Figure, list[Axes]]:
    """A figure of this size in inches with labelled axes below each other."""
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    columns = figure.subplots(len(x_labels), squeeze=False)[:, 0].tolist()
    for axes, x_label in zip(columns, x_labels, strict=True):
        _style(axes)
        axes.set_xlabel(fill(x_label, LABEL_WIDTH), fontsize=12, color=INK)
    label = columns[0].set_ylabel if len(columns) == 1 else figure.supylabel
    label(fill(y_label, LABEL_WIDTH), fontsize=12, color=INK)
    return figure, columns


def _style(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.tick_params(labelsize=11, colors=INK, length=3)
    axes.grid(visible=True, color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)


def legend(figure: Figure, columns: int = 4, handles: Sequence[Any] = ()) -> None:
    """A legend above the axes, where it hides no points; by default, of all that has a label."""
    handles = handles or figure.axes[0].get_legend_handles_labels()[0]
    figure.legend(
        handles=list(handles),
        loc="outside upper left",
        ncols=min(columns, len(handles)),
        fontsize=10,
        frameon=False,
        handletextpad=0.4,
        columnspacing=1.1,
        labelcolor=INK,
    )


def _widen(figure: Figure) -> None:
    """Give axes whose values are equal up to rounding a range that can be read."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = axis.get_view_interval()
            if abs(high - low) <= max(1e-12, 1e-9 * abs(low)):
                axis.set_view_interval(low - FLAT_REACH, high + FLAT_REACH, ignore=True)


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes; equal figures give equal bytes."""
    _widen(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _alternative(figure: Figure, title: str) -> str:
    """What the figure shows, for readers who do not see it."""
    labels = {axes.get_xlabel(): axes.get_ylabel() for axes in figure.axes}
    shared = figure.get_supylabel() or "a row each"
    drawn = [f"{y or shared} against {x}" for x, y in labels.items() if x]
    return escape(" ".join(f"{title}: {'; '.join(drawn)}".split()))


def svg(figure: Figure, name: str, title: str = "") -> str:
    """The figure as an `<svg>` element for a page; `name` makes ids unique within the page."""
    _widen(figure)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    alternative = _alternative(figure, title)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{alternative}" ', 1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'( id="|url\(#|href="#)', rf"\1{name.replace(' ', '_')}-", text)
    # The page sets the width; the view box keeps the proportions.
    text = re.sub(r'<svg (.*?)width="[^"]*"', r"<svg \1", text, count=1, flags=re.S)
    text = re.sub(r'<svg (.*?)height="[^"]*"', r"<svg \1", text, count=1, flags=re.S)
    text = text.replace("'DejaVu Sans'", "system-ui")
    for colour, variable in _THEMED.items():
        text = text.replace(f": {colour}", f": var(--{variable})")
    return text


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
