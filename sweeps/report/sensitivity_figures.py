"""The figures of a sensitivity study, each with its numbers as a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sweeps.report import drawing
from sweeps.report.arm_comparison import Comparisons
from sweeps.report.arms import Interval, scored_at, setting_at
from sweeps.report.intervals import bars, cut, mean_interval
from sweeps.report.page import Cells, Drawn, table
from sweeps.report.pareto_front import COST, front
from sweeps.report.sensitivity import SensitivityData, SensitivityResult
from sweeps.report.trial_row import ScoreLabel

TRAIN_SECONDS = "cost/train_seconds"
VERDICT_COLOURS = {
    "equivalent": drawing.GOOD,
    "different": drawing.BAD,
    "inconclusive": drawing.GREY,
}


def figures(data: SensitivityData, result: SensitivityResult) -> list[Drawn]:
    """All figures, the curve first."""
    parts = [curve(data, result), verdicts(data, result), slices(data)]
    caption = "On the tuning grid, with 95 % bootstrap intervals over trials."
    return [*parts, importance(data.importance, caption), costs(data, result)]


def curve(data: SensitivityData, result: SensitivityResult) -> Drawn:
    """Mean score against mask ratio with simultaneous intervals and the band of SFT."""
    title, label = "Score against mask ratio", data.label
    if not result.intervals:
        return Drawn("curve", title, f"No curve yet: {result.missing}.")
    figure, axes = drawing.canvas("mask ratio", label.text)
    rows: list[Cells] = []
    for one, interval in zip(result.arms, result.intervals, strict=True):
        shown = [label.shown(score) for score in one.scores]
        name = "" if rows else "one seed"
        axes.scatter(
            [float(one.name)] * one.n, shown, s=16, color=drawing.GREY, alpha=0.8, label=name
        )
        rows.append(
            {
                "mask ratio": one.name,
                "seeds": one.n,
                "mean": label.number(interval.estimate),
                "95 % interval (simultaneous)": label.interval(interval),
            }
        )
    ratios = [float(one.name) for one in result.arms]
    means = [label.shown(i.estimate) for i in result.intervals]
    reach = bars(result.intervals, label)
    line: drawing.Style = {
        "color": drawing.LINE_COLOUR,
        "linewidth": 1.6,
        "marker": "o",
        "label": "mean, 95 %",
    }
    axes.errorbar(ratios, means, yerr=reach, capsize=3, zorder=3, **line)
    if ratios[0] == 0:
        sft = result.intervals[0]
        ends = sorted(label.shown(value) for value in (sft.low, sft.high))
        axes.axhspan(
            *ends, color=drawing.BAND, alpha=0.45, linewidth=0, zorder=0, label="SFT, 95 %"
        )
        axes.axhline(label.shown(sft.estimate), **drawing.SFT_LINE)
    axes.set_xlim(-0.04, 1.03)
    drawing.legend(figure, 2)
    caption = (
        "Mean over seeds on validation items. The 95 % intervals hold for all ratios "
        "simultaneously and describe differences between ratios: all ratios ran on the same "
        "seeds, so the seed effect that they share is removed. The band is SFT's (mask ratio 0)."
    )
    if result.missing:
        caption += f" Missing: {result.missing}."
    return Drawn("curve", title, caption, figure, table(rows))


def verdicts(data: SensitivityData, result: SensitivityResult) -> Drawn:
    """Differences from the best ratio with the margin, and the verdicts."""
    title, label = "Difference from the best ratio", data.label
    if result.best is None:
        return Drawn("verdicts", title, f"No verdict: {result.missing}.")
    figure, axes = drawing.canvas("mask ratio", f"difference, {label.unit}")
    band: drawing.Style = {"color": drawing.BAND, "alpha": 0.35, "linewidth": 0, "label": "margin"}
    axes.axhspan(-data.margin, data.margin, zorder=0, **band)
    axes.axhline(0, color=drawing.INK, linewidth=1)
    for verdict, colour in VERDICT_COLOURS.items():
        some = [one for one in result.best.arms if one.verdict == verdict]
        axes.errorbar(
            [float(one.name) for one in some],
            [label.shown(one.difference) for one in some],
            yerr=[one.high - one.difference for one in some],
            fmt="o",
            color=colour,
            capsize=3,
            label=verdict,
        )
    axes.set_xlim(-0.04, 1.03)
    drawing.legend(figure, 2)
    caption = (
        f"Compared with the best ratio ({result.best.reference}). Margin \u00b1{data.margin:g}, "
        f"{data.declared}. Equivalent: two one-sided tests at the margin, Holm-corrected. "
        "Different: Tukey's interval of all pairs excludes 0. Everything else is inconclusive."
    )
    rows = _verdict_rows(label, result, result.best)
    return Drawn("verdicts", title, caption, figure, table(rows))


def _verdict_rows(label: ScoreLabel, result: SensitivityResult, best: Comparisons) -> list[Cells]:
    control = {} if result.control is None else {a.name: a for a in result.control.arms}
    rows: list[Cells] = []
    for one in best.arms:
        sft = control.get(one.name)
        rows.append(
            {
                "mask ratio": one.name,
                f"from {best.reference}": label.difference(one.difference),
                "95 %": label.interval(one, signed=True),
                "p (TOST, Holm)": f"{one.p_equivalent:.3g}",
                "verdict": one.verdict,
                "from SFT": label.difference(sft and sft.difference),
                "95 % from SFT": label.interval(sft, signed=True),
                "verdict against SFT": sft and sft.verdict,
            }
        )
    return rows


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
    figure, axes = drawing.canvas("mask ratio", label.text)
    intervals = sorted({n for n, _ in pairs})
    rows: list[Cells] = []
    for index, (interval, rate) in enumerate(pairs):
        some = sorted(
            (r.mask_ratio, r.score or 0.0)
            for r in tuning
            if (r.accumulation_interval, r.learning_rate) == (interval, rate)
        )
        marker = drawing.MARKERS[intervals.index(interval) % len(drawing.MARKERS)]
        colour, name = drawing.series_colour(index), f"lr {rate:.0e}, N = {interval}"
        shown = [label.shown(score) for _, score in some]
        axes.plot([x for x, _ in some], shown, color=colour, marker=marker, label=name)
        for ratio, score in some:
            point = {"mask ratio": f"{ratio:g}", "N": interval, "learning rate": f"{rate:.1e}"}
            rows.append({**point, label.text: label.number(score)})
    drawing.legend(figure, 2)
    caption = "On seeds used nowhere else; each ratio's best pair is replicated."
    return Drawn("slices", title, caption, figure, table(rows))


def importance(shares: Sequence[tuple[str, Interval]], caption: str) -> Drawn:
    """fANOVA shares of variance with bootstrap bars."""
    title = "Importance of each parameter (fANOVA)"
    if not shares:
        missing = "Requires a tuning grid over two or more parameters, which this study lacks."
        return Drawn("importance", title, missing)
    figure, axes = drawing.canvas("share of the score's variance", "", (5.6, 2.6))
    for name, share in reversed(shares):
        ends = [[share.estimate - share.low], [share.high - share.estimate]]
        error: drawing.Style = {"ecolor": drawing.INK, "capsize": 3}
        axes.barh(
            name, share.estimate, xerr=ends, color=drawing.LINE_COLOUR, height=0.55, error_kw=error
        )
    axes.set_xlim(0, 1)
    rows = [
        {"parameter": n, "share": f"{s.estimate:.2f}", "95 %": f"{s.low:.2f} to {s.high:.2f}"}
        for n, s in shares
    ]
    return Drawn("importance", title, caption, figure, table(rows))


def costs(data: SensitivityData, result: SensitivityResult) -> Drawn:
    """Mean score against mean training time, with the non-dominated arms in colour."""
    title, points, spans = "Score and cost", {}, {}
    for one in result.arms:
        rows = scored_at(data.rows, setting_at(float(one.name), data.method), "replicate")
        seconds = [r.metrics[TRAIN_SECONDS] for r in rows if TRAIN_SECONDS in r.metrics]
        if seconds:
            points[one.name] = (one.mean, float(np.mean(seconds)))
            span = mean_interval(seconds)
            spans[one.name] = span and cut(span, COST)
    if len(points) < 2:
        return Drawn("front", title, "Requires two ratios with a score and a time.")
    caption = (
        "Numbers are mask ratios; pink ones are on the Pareto front. Times are of the updates "
        "alone, without the start of the workers, with 95 % intervals over seeds. Trials that ran "
        "in parallel shared the machine."
    )
    part, axis = Drawn("front", title, caption), "training seconds, mean of replicates"
    return front(part, data.label, axis, "mask ratio", points, spans)
