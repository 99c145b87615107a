"""The figures of a search's report."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from sweeps.report import drawing
from sweeps.report.intervals import score_interval
from sweeps.report.trial_row import (
    CUT_SHORT,
    StudyData,
    TrialRow,
    as_text,
    best_by_mask_ratio,
    best_so_far,
    other_parameters,
    scored,
)

_END_OF_STOPPED = {"marker": "o", "markevery": [-1], "markerfacecolor": "none"}
_ONE_TRIAL: drawing.Style = {"color": drawing.GREY, "s": 34, "linewidths": 0, "alpha": 0.8}
EVENLY_SPACED = 6
"""Up to so many different numbers are shown as categories."""

FAR_APART = 20
"""Numbers that differ by a larger factor are shown on a logarithmic axis."""


def score_against_mask_ratio(data: StudyData) -> Figure:
    """Every scored trial, and the best SFT trial as a line; the best ones have intervals."""
    figure, axes = drawing.canvas("mask ratio", f"validation {data.label.text}")
    rows = scored(data.rows)
    # Stopped trials are hollow: their scores, of earlier steps, are not comparable.
    stopped = [r for r in data.rows if r.state in CUT_SHORT and r.score is not None]
    hollow: drawing.Style = {
        "marker": "o",
        "facecolors": "none",
        "edgecolors": drawing.GREY,
        "label": "stopped early",
    }
    if stopped:
        axes.scatter(*_points(data, stopped), s=34, linewidths=1.1, zorder=2, **hollow)
    _draw_sft(axes, data)
    _draw_intervals(axes, data)
    marks: list[Line2D] = []
    norm = _learning_rate_norm(rows)
    intervals = sorted({row.accumulation_interval for row in rows})
    for index, interval in enumerate(intervals):
        some = [row for row in rows if row.accumulation_interval == interval]
        marker, rates = (
            drawing.MARKERS[index % len(drawing.MARKERS)],
            [row.learning_rate for row in some],
        )
        look: drawing.Style = {"s": 58, "edgecolors": drawing.INK, "linewidths": 0.8, "zorder": 3}
        points = _points(data, some)
        axes.scatter(*points, c=rates, norm=norm, cmap=drawing.COLOURS, marker=marker, **look)
        name = f"N = {interval}"
        marks.append(Line2D([], [], color=drawing.INK, marker=marker, linestyle="", label=name))
    axes.set_xlim(-0.04, 1.02)
    _colour_bar(figure, axes, norm)
    drawing.legend(figure, 4, [*marks, *axes.get_legend_handles_labels()[0]])
    return figure


def best_score_so_far(data: StudyData) -> Figure:
    """The best validation score after each trial, drawn over the single scores."""
    figure, axes = drawing.canvas("trial number", f"validation {data.label.text}")
    rows, curve = scored(data.rows), best_so_far(data.rows)
    numbers, scores = [row.number for row in rows], _points(data, rows)[1]
    axes.scatter(numbers, scores, label="one trial", **_ONE_TRIAL)
    best = [data.label.shown(score) for _, score in curve]
    style: drawing.Style = {"color": drawing.LINE_COLOUR, "linewidth": 2.0, "label": "best so far"}
    axes.step([number for number, _ in curve], best, where="post", **style)
    _draw_sft(axes, data)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    drawing.legend(figure)
    return figure


def slices(data: StudyData) -> Figure | None:
    """Every scored trial against each other parameter that varies; None if none does."""
    rows = scored(data.rows)
    names = ("method", "accumulation_interval", "learning_rate", *other_parameters(data.rows))
    found = {name: [row for row in rows if name in row.point()] for name in names}
    varying = {n: some for n, some in found.items() if len({r.point()[n] for r in some}) > 1}
    if not varying:
        return None
    size = (drawing.SIZE_INCHES[0], 0.5 + 2.4 * len(varying))
    figure, panels = drawing.canvases([*varying], f"validation {data.label.text}", size)
    for axes, (name, some) in zip(panels, varying.items(), strict=True):
        axes.scatter(_places(axes, name, some), _points(data, some)[1], **_ONE_TRIAL)
        _draw_sft(axes, data)
    return figure


def learning_curves(data: StudyData) -> Figure | None:
    """The score at each validation check of every trial; None if no trial has two checks."""
    best, sft, other = data.best, best_by_mask_ratio(data.rows).get(0.0), "other trials"
    figure, axes = drawing.canvas("share of the updates", f"validation {data.label.text}")
    for row in data.rows:
        points = _checks(data, row)
        if len(points) < 2:
            continue
        if row == sft:
            style: drawing.Style = {**drawing.SFT_LINE, "label": "best SFT"}
        elif row == best:
            style = {"color": drawing.LINE_COLOUR, "linewidth": 2.2, "label": "best trial"}
        else:
            style = {"color": drawing.GREY, "linewidth": 1.0, "label": other}
            style |= _END_OF_STOPPED if row.state in CUT_SHORT else {}
            other = ""
        axes.plot([x for x, _ in points], [data.label.shown(y) for _, y in points], **style)
    if not axes.lines:
        return None
    drawing.legend(figure)
    return figure


def _checks(data: StudyData, row: TrialRow) -> list[tuple[float, float]]:
    """(share of the updates, score) at each check, the last one of a finished trial with it."""
    points = dict(data.curves.get(row.number, ()))
    if row.state == "finished" and row.score is not None and not row.scores:
        points[1.0] = row.score
    return sorted(points.items())


def _places(axes: Axes, name: str, rows: Sequence[TrialRow]) -> list[float]:
    """Where each row's value is on the axis: words, and few numbers of a list, are evenly spaced.

    Fractions that are all different are drawn from a range.
    """
    values = [row.point()[name] for row in rows]
    numbers = [value for value in values if not isinstance(value, str)]
    is_drawn = len(set(values)) == len(values) and not all(isinstance(v, int) for v in values)
    if len(numbers) < len(values) or (len(set(values)) <= EVENLY_SPACED and not is_drawn):
        order = [*sorted(set(numbers)), *sorted({v for v in values if isinstance(v, str)})]
        axes.set_xticks(range(len(order)), [as_text(value) for value in order])
        return [float(order.index(value)) for value in values]
    if min(numbers) > 0 and max(numbers) > FAR_APART * min(numbers):
        axes.set_xscale("log")
    return [float(value) for value in numbers]


def _points(data: StudyData, rows: Sequence[TrialRow]) -> tuple[list[float], list[float]]:
    """Mask ratios and shown scores."""
    shown = [data.label.shown(row.score or 0.0) for row in rows]
    return [row.mask_ratio for row in rows], shown


def _draw_sft(axes: Axes, data: StudyData) -> None:
    sft = best_by_mask_ratio(data.rows).get(0.0)
    if sft is not None:
        axes.axhline(data.label.shown(sft.score or 0.0), label="best SFT", **drawing.SFT_LINE)


def _draw_intervals(axes: Axes, data: StudyData) -> None:
    """The interval of the best SFT trial as a band, and that of the best trial as a bar."""
    for row in (best_by_mask_ratio(data.rows).get(0.0), data.best):
        interval = None if row is None else score_interval(row)
        if row is None or interval is None:
            continue
        low, high = sorted(map(data.label.shown, (interval.low, interval.high)))
        if row.is_sft():
            band: drawing.Style = {"color": drawing.BAND, "alpha": 0.45, "linewidth": 0}
            axes.axhspan(low, high, zorder=0, label="SFT, 95 %", **band)
        else:
            bar: drawing.Style = {"color": drawing.INK, "linewidth": 1.4, "zorder": 2}
            axes.vlines(row.mask_ratio, low, high, label="best trial, 95 %", **bar)


def _learning_rate_norm(rows: Sequence[TrialRow]) -> LogNorm:
    rates = [row.learning_rate for row in rows] or [1.0]
    low, high = min(rates), max(rates)
    return LogNorm(low, high) if low < high else LogNorm(low / 2, high * 2)


def _colour_bar(figure: Figure, axes: Axes, norm: LogNorm) -> None:
    bar = figure.colorbar(ScalarMappable(norm, drawing.COLOURS), ax=axes, pad=0.02, aspect=28)
    bar.set_label("learning rate", fontsize=12, color=drawing.INK)
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    bar.ax.yaxis.set_major_formatter(lambda rate, _: f"{rate:.0e}")
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.tick_params(labelsize=10, colors=drawing.INK, length=3)
    bar.outline.set_visible(False)
