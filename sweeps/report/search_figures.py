"""The two figures of a search's report."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from sweeps.report.page import COLOURS, GREY, INK, LINE_COLOUR, MARKERS, SFT_COLOUR, canvas, legend
from sweeps.report.trial_row import StudyData, TrialRow, best_by_mask_ratio, best_so_far, scored


def score_against_mask_ratio(data: StudyData) -> Figure:
    """Every scored trial, the best per mask ratio, and the best SFT trial as a line."""
    figure, axes = canvas("mask ratio", f"validation {data.label.text}")
    rows = scored(data.rows)
    norm = _learning_rate_norm(rows)
    intervals = sorted({row.accumulation_interval for row in rows})
    markers = {n: MARKERS[i % len(MARKERS)] for i, n in enumerate(intervals)}
    _draw_stopped(axes, data)
    best = best_by_mask_ratio(data.rows)
    axes.plot(
        list(best),
        [data.label.shown(row.score or 0.0) for row in best.values()],
        color=LINE_COLOUR,
        linewidth=1.4,
        alpha=0.7,
        zorder=2,
    )
    for interval, marker in markers.items():
        some = [row for row in rows if row.accumulation_interval == interval]
        axes.scatter(
            [row.mask_ratio for row in some],
            [data.label.shown(row.score or 0.0) for row in some],
            c=[row.learning_rate for row in some],
            norm=norm,
            cmap=COLOURS,
            marker=marker,
            s=58,
            edgecolors="white",
            linewidths=0.8,
            zorder=3,
        )
    if 0.0 in best:
        axes.axhline(
            data.label.shown(best[0.0].score or 0.0),
            color=SFT_COLOUR,
            linewidth=1.6,
            linestyle="--",
        )
    axes.set_xlim(-0.04, 1.02)
    _colour_bar(figure, axes, norm)
    legend(figure, _handles(data.rows, markers, has_sft=0.0 in best))
    return figure


def best_score_so_far(data: StudyData) -> Figure:
    """The best validation score after each trial, drawn over the single scores."""
    figure, axes = canvas("trial number", f"validation {data.label.text}")
    rows, curve = scored(data.rows), best_so_far(data.rows)
    axes.scatter(
        [row.number for row in rows],
        [data.label.shown(row.score or 0.0) for row in rows],
        color=GREY,
        s=34,
        linewidths=0,
        alpha=0.8,
        label="one trial",
    )
    axes.step(
        [number for number, _ in curve],
        [data.label.shown(score) for _, score in curve],
        where="post",
        color=LINE_COLOUR,
        linewidth=2.0,
        label="best so far",
    )
    sft = best_by_mask_ratio(data.rows).get(0.0)
    if sft is not None:
        axes.axhline(
            data.label.shown(sft.score or 0.0),
            color=SFT_COLOUR,
            linewidth=1.6,
            linestyle="--",
            label="best SFT",
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, _ = axes.get_legend_handles_labels()
    legend(figure, handles)
    return figure


def _draw_stopped(axes: Axes, data: StudyData) -> None:
    """Draw stopped trials as hollow marks: their scores, of earlier steps, are not comparable."""
    some = _stopped(data.rows)
    axes.scatter(
        [row.mask_ratio for row in some],
        [data.label.shown(row.score or 0.0) for row in some],
        marker="o",
        s=34,
        facecolors="none",
        edgecolors=GREY,
        linewidths=1.1,
        zorder=2,
    )


def _stopped(rows: Sequence[TrialRow]) -> list[TrialRow]:
    return [row for row in rows if row.state == "stopped_early" and row.score is not None]


def _learning_rate_norm(rows: Sequence[TrialRow]) -> LogNorm:
    rates = [row.learning_rate for row in rows] or [1.0]
    low, high = min(rates), max(rates)
    return LogNorm(low, high) if low < high else LogNorm(low / 2, high * 2)


def _colour_bar(figure: Figure, axes: Axes, norm: LogNorm) -> None:
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=axes, pad=0.02, aspect=28)
    bar.set_label("learning rate", fontsize=12, color=INK)
    locator = LogLocator(subs=(1.0, 2.0, 5.0))
    bar.ax.yaxis.set_major_locator(locator)
    bar.ax.yaxis.set_major_formatter(lambda rate, _: f"{rate:.0e}")
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.tick_params(labelsize=10, colors=INK, length=3)
    bar.outline.set_visible(False)


def _handles(rows: Sequence[TrialRow], markers: dict[int, str], *, has_sft: bool) -> list[Line2D]:
    handles = [
        Line2D([], [], color=INK, marker=marker, linestyle="", markersize=6, label=f"N = {n}")
        for n, marker in markers.items()
    ]
    handles.append(Line2D([], [], color=LINE_COLOUR, linewidth=1.4, label="best per ratio"))
    if has_sft:
        handles.append(
            Line2D([], [], color=SFT_COLOUR, linewidth=1.6, linestyle="--", label="best SFT")
        )
    if _stopped(rows):
        hollow = Line2D([], [], color=GREY, marker="o", linestyle="", label="stopped early")
        hollow.set_markerfacecolor("none")
        handles.append(hollow)
    return handles
