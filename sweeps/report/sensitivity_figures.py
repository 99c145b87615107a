"""The figures of a sensitivity study, each with its numbers as a table."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sweeps.report.arms import Interval, setting_at
from sweeps.report.page import (
    BAND,
    GREY,
    INK,
    LINE_COLOUR,
    MARKERS,
    NO_VALUE,
    SFT_COLOUR,
    Drawn,
    canvas,
    legend,
    table,
)
from sweeps.report.pareto_front import Front
from sweeps.report.sensitivity import SensitivityData, SensitivityResult

VERDICT_COLOURS = {"equivalent": "#2f855a", "different": "#c53030", "inconclusive": GREY}


def curve(data: SensitivityData, result: SensitivityResult) -> Drawn:
    """Mean score against mask ratio with simultaneous intervals and the band of SFT."""
    title, label = "Score against mask ratio", data.label
    heads = ["mask ratio", "seeds", "mean", "95 % interval (simultaneous)"]
    if not result.intervals:
        return Drawn("curve", title, f"No curve yet: {result.missing}.")
    figure, axes = canvas("mask ratio", label.text)
    ratios = [float(one.name) for one in result.arms]
    for one, ratio in zip(result.arms, ratios, strict=True):
        shown = [label.shown(score) for score in one.scores]
        axes.scatter([ratio] * one.n, shown, s=16, color=GREY, alpha=0.6, linewidths=0)
    handles: list[object] = [
        _draw_means(axes, data, ratios, result.intervals),
        Line2D([], [], color=GREY, marker="o", markersize=4, linestyle="", label="one seed"),
    ]
    if ratios[0] == 0:
        handles.append(_draw_band(axes, data, result.intervals[0]))
    axes.set_xlim(-0.04, 1.03)
    legend(figure, handles, 2)
    rows = [
        [one.name, str(one.n), label.number(i.estimate), label.span(i.low, i.high)]
        for one, i in zip(result.arms, result.intervals, strict=True)
    ]
    caption = (
        "Mean over seeds on validation items. The 95 % intervals hold for all ratios "
        "simultaneously and describe differences between ratios: all ratios ran on the same "
        "seeds, so the seed effect that they share is removed. The band is SFT's (mask ratio 0)."
    )
    if result.missing:
        caption += f" Missing: {result.missing}."
    return Drawn("curve", title, caption, figure, table(heads, rows))


def _draw_means(
    axes: Axes, data: SensitivityData, ratios: list[float], intervals: tuple[Interval, ...]
) -> Line2D:
    shown = [data.label.shown(i.estimate) for i in intervals]
    reach = [i.high - i.estimate for i in intervals]
    axes.errorbar(
        ratios,
        shown,
        yerr=reach,
        color=LINE_COLOUR,
        linewidth=1.6,
        marker="o",
        capsize=3,
        zorder=3,
    )
    return Line2D([], [], color=LINE_COLOUR, linewidth=1.6, marker="o", label="mean, 95 %")


def _draw_band(axes: Axes, data: SensitivityData, sft: Interval) -> Patch:
    ends = sorted(data.label.shown(value) for value in (sft.low, sft.high))
    axes.axhspan(*ends, color=BAND, alpha=0.45, linewidth=0, zorder=0)
    axes.axhline(data.label.shown(sft.estimate), color=SFT_COLOUR, linestyle="--", linewidth=1.4)
    return Patch(color=BAND, alpha=0.45, label="SFT, 95 %")


def verdicts(data: SensitivityData, result: SensitivityResult) -> Drawn:
    """Differences from the best ratio with the margin, and the verdicts."""
    title, label = "Difference from the best ratio", data.label
    if result.best is None:
        return Drawn("verdicts", title, f"No verdict: {result.missing}.")
    figure, axes = canvas("mask ratio", f"difference, {label.unit}")
    axes.axhspan(-data.margin, data.margin, color=BAND, alpha=0.35, linewidth=0, zorder=0)
    axes.axhline(0, color=INK, linewidth=1)
    for one in result.best.arms:
        axes.errorbar(
            float(one.name),
            label.shown(one.difference),
            yerr=one.high - one.difference,
            color=VERDICT_COLOURS[one.verdict],
            marker="o",
            capsize=3,
        )
    axes.set_xlim(-0.04, 1.03)
    handles: list[object] = [
        Line2D([], [], color=colour, marker="o", label=name)
        for name, colour in VERDICT_COLOURS.items()
    ]
    legend(figure, [*handles, Patch(color=BAND, alpha=0.35, label="margin")], 2)
    control = {} if result.control is None else {a.name: a for a in result.control.arms}
    rows = []
    for one in result.best.arms:
        sft = control.get(one.name)
        rows.append(
            [
                one.name,
                label.difference(one.difference),
                label.span(one.low, one.high, signed=True),
                f"{one.p_equivalent:.3g}",
                one.verdict,
                NO_VALUE if sft is None else label.difference(sft.difference),
                NO_VALUE if sft is None else label.span(sft.low, sft.high, signed=True),
                NO_VALUE if sft is None else sft.verdict,
            ]
        )
    heads = ["mask ratio", f"from {result.best.reference}", "95 %", "p (TOST, Holm)", "verdict"]
    heads += ["from SFT", "95 %", "verdict against SFT"]
    caption = (
        f"Compared with the best ratio ({result.best.reference}). Equivalent: two one-sided tests "
        f"at \u00b1{data.margin:g}, Holm-corrected. Different: Tukey's interval of all pairs "
        "excludes 0. Everything else is inconclusive."
    )
    return Drawn("verdicts", title, caption, figure, table(heads, rows))


def slices(data: SensitivityData) -> Drawn:
    """The tuning trials: score against mask ratio for each pair of nuisance parameters."""
    title, label = "Nuisance parameters, tuned for every ratio", data.label
    tuning = [r for r in data.rows if r.stage == "tuning" and r.score is not None]
    pairs = sorted({(r.accumulation_interval, r.learning_rate) for r in tuning})
    if len(pairs) < 2:
        return Drawn(
            "slices",
            title,
            "No figure: accumulation interval and learning rate were fixed beforehand, the same "
            "at every ratio. Lists under study.nuisance tune them for each ratio.",
        )
    figure, axes = canvas("mask ratio", label.text)
    rates = sorted({rate for _, rate in pairs})
    intervals = sorted({n for n, _ in pairs})
    colours = dict(zip(rates, _colours(len(rates)), strict=True))
    rows = []
    for interval, rate in pairs:
        some = sorted(
            (r.mask_ratio, label.shown(r.score))
            for r in tuning
            if (r.accumulation_interval, r.learning_rate) == (interval, rate)
            and r.score is not None
        )
        marker = MARKERS[intervals.index(interval) % len(MARKERS)]
        name = f"lr {rate:.0e}, N = {interval}"
        axes.plot(*zip(*some, strict=True), color=colours[rate], marker=marker, label=name)
        rows += [
            [f"{x:g}", str(interval), f"{rate:.1e}", label.number(label.sign * y)] for x, y in some
        ]
    handles, _ = axes.get_legend_handles_labels()
    legend(figure, handles, 2)
    caption = "One seed per point, used nowhere else; each ratio's best pair is replicated."
    heads = ["mask ratio", "N", "learning rate", label.text]
    return Drawn("slices", title, caption, figure, table(heads, rows))


def _colours(count: int) -> list[tuple[float, float, float, float]]:
    from matplotlib import colormaps

    return [tuple(colormaps["viridis"](x)) for x in np.linspace(0.3, 0.85, count)]


def importance(data: SensitivityData) -> Drawn:
    """fANOVA shares of variance with bootstrap bars."""
    title = "Importance of each parameter (fANOVA)"
    if not data.importance:
        missing = "Requires a tuning grid over two or more parameters, which this study lacks."
        return Drawn("importance", title, missing)
    figure, axes = canvas("share of the score's variance", "", (5.6, 2.6))
    names = [name for name, _ in data.importance]
    shares = [share for _, share in data.importance]
    places = np.arange(len(names))[::-1]
    axes.barh(places, [s.estimate for s in shares], color=LINE_COLOUR, height=0.55)
    ends = [[s.estimate - s.low for s in shares], [s.high - s.estimate for s in shares]]
    axes.errorbar(
        [s.estimate for s in shares], places, xerr=ends, fmt="none", color=INK, capsize=3
    )
    axes.set_yticks(places, names)
    axes.set_xlim(0, 1)
    rows = [[n, f"{s.estimate:.2f}", f"{s.low:.2f} to {s.high:.2f}"] for n, s in data.importance]
    caption = "On the tuning grid, with 95 % bootstrap intervals over trials."
    return Drawn("importance", title, caption, figure, table(["parameter", "share", "95 %"], rows))


def front(data: SensitivityData, result: SensitivityResult) -> Drawn:
    """Mean score against mean training time, with the non-dominated arms in colour."""
    title, label = "Score and cost", data.label
    points = []
    for one in result.arms:
        setting = setting_at(float(one.name), data.method)
        seconds = [
            row.metrics.get("cost/train_seconds", row.seconds)
            for row in data.rows
            if setting.holds(row) and row.stage == "replicate" and row.state == "finished"
        ]
        points.append((one.mean, float(np.mean(seconds))))
    if len(points) < 2:
        return Drawn("front", title, "Requires two ratios with a score.")
    found = Front("mask ratio", "seconds", [one.name for one in result.arms], points)
    figure = found.figure(label, "training seconds, mean of replicates")
    caption = (
        "Numbers are mask ratios; coloured ones are on the Pareto front. Trials that ran in "
        "parallel shared the machine: time differences of a few percent are noise."
    )
    return Drawn("front", title, caption, figure, found.table(label))
