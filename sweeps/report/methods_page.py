"""Figures and tables that compare methods, drops, and methods on less data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sweeps.report.arms import SFT, Arm, Interval, Setting, TooFewScores, arm, setting_at
from sweeps.report.equivalence import against_control
from sweeps.report.intervals import simultaneous_intervals
from sweeps.report.page import (
    GREY,
    LINE_COLOUR,
    MARKERS,
    NO_VALUE,
    SFT_COLOUR,
    Drawn,
    canvas,
    legend,
    table,
)
from sweeps.report.published import DROP_CLAIM, NO_NUMBERS
from sweeps.report.trial_row import SCORE, ScoreLabel, TrialRow

NAMES: Mapping[str, str] = {
    "pretrained": "Pre-trained",
    "sft": "SFT",
    "drop_trivial": "One-off Drop",
    "hft": "HFT",
    "random": "Random Mask",
    "gmt": "GMT",
}
RULES: Mapping[str, tuple[str, str]] = {
    "drop_trivial": ("smallest changes dropped", LINE_COLOUR),
    "drop_random": ("random ones dropped", GREY),
    "drop_salient": ("largest changes dropped", "#805ad5"),
}


@final
@dataclass(frozen=True)
class ComparisonData:
    """One study of several methods in one domain.

    `mask_ratio` is GMT's. `tests[trial key]`: "<benchmark>/score" and more, on test items.
    `sensitivity`: rows of a finished sensitivity study, whose curve is drawn over the drops.
    """

    name: str
    domain: str
    kind: str
    label: ScoreLabel
    rows: tuple[TrialRow, ...]
    config_yaml: str
    mask_ratio: float | None = None
    margin: float | None = None
    drop_rates: tuple[float, ...] = ()
    fractions: tuple[float, ...] = ()
    tests: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    sensitivity: tuple[TrialRow, ...] = ()
    commands: tuple[str, ...] = ()


def settings_of(ratio: float, fraction: float = 1.0) -> dict[str, Setting]:
    """The arm of every method at GMT's mask ratio, in the paper's order."""
    ratios = {"drop_trivial": ratio, "random": ratio, "gmt": ratio}
    return {name: Setting(name, ratios.get(name, 0.0), fraction) for name in NAMES}


def intervals_of(arms: Sequence[Arm]) -> dict[str, Interval]:
    """Simultaneous intervals of the arms that have scores; empty if there are too few seeds."""
    some = [one for one in arms if one.scores]
    try:
        return dict(zip([a.name for a in some], simultaneous_intervals(some), strict=True))
    except TooFewScores:
        return {}


def methods(data: ComparisonData) -> Drawn:
    """The paper's Tables 1 and 2: each method's mean, and its difference from SFT."""
    title = f"Methods at mask ratio {data.mask_ratio:g}"
    arms = {n: arm(s, data.rows, n) for n, s in settings_of(data.mask_ratio or 0.0).items()}
    trained = [one for name, one in arms.items() if name != "pretrained" and one.scores]
    intervals, label = intervals_of(trained), data.label
    if len(intervals) < 2:
        return Drawn("methods", title, "Requires two methods with two seeds each.")
    control = next((one for one in trained if one.name == "sft"), None)
    margin = data.margin or 0.0
    against = (
        {}
        if control is None
        else {one.name: one for one in against_control(trained, control, margin).arms}
    )
    figure, axes = canvas(label.text, "", (5.6, 3.2))
    shown = [name for name in NAMES if arms[name].scores]
    for place, name in enumerate(reversed(shown)):
        _bar(axes, data, arms[name], intervals.get(name), place)
    axes.set_yticks(range(len(shown)), [NAMES[name] for name in reversed(shown)])
    rows = []
    for name in NAMES:
        one, interval, versus = arms[name], intervals.get(name), against.get(name)
        rows.append(
            [
                NAMES[name],
                str(one.n),
                label.number(one.mean) if one.scores else NO_VALUE,
                NO_VALUE if interval is None else label.span(interval.low, interval.high),
                NO_VALUE if versus is None else label.difference(versus.difference),
                NO_VALUE if versus is None else label.span(versus.low, versus.high, signed=True),
                NO_VALUE
                if versus is None
                else _told(data, versus.low, versus.high, versus.verdict),
                *_test_scores(data, settings_of(data.mask_ratio or 0.0)[name]),
            ]
        )
    heads = ["method", "seeds", "validation", "95 %", "minus SFT", "95 %", "verdict against SFT"]
    heads += [f"test, {name}" for name in _benchmarks(data)]
    caption = (
        "Same data, seeds and budget. Intervals hold for all methods simultaneously and exclude "
        "the seed effect that all methods share; differences from SFT use Dunnett's intervals. "
        f"{NO_NUMBERS}"
    )
    return Drawn("methods", title, caption, figure, table(heads, rows))


def _bar(axes: Axes, data: ComparisonData, one: Arm, interval: Interval | None, y: int) -> None:
    colour = SFT_COLOUR if one.name == "sft" else LINE_COLOUR
    reach = 0.0 if interval is None else interval.high - interval.estimate
    axes.errorbar(data.label.shown(one.mean), y, xerr=reach, color=colour, marker="o", capsize=3)
    shown = [data.label.shown(score) for score in one.scores]
    axes.scatter(shown, [y] * one.n, color=GREY, s=14, alpha=0.6, linewidths=0)


def _told(data: ComparisonData, low: float, high: float, verdict: str) -> str:
    """The verdict; without a preregistered margin, never "equivalent"."""
    if data.margin is not None:
        return verdict
    return "different" if low > 0 or high < 0 else "not resolved"


def _benchmarks(data: ComparisonData) -> list[str]:
    suffix = f"/{SCORE}"
    keys = {key for scores in data.tests.values() for key in scores if key.endswith(suffix)}
    return sorted(key.removesuffix(suffix) for key in keys)


def _test_scores(data: ComparisonData, setting: Setting) -> list[str]:
    """The mean over seeds of each benchmark's test score."""
    texts = []
    for name in _benchmarks(data):
        scores = [
            data.tests[row.key][f"{name}/{SCORE}"]
            for row in data.rows
            if row.stage == "replicate" and setting.holds(row) and row.key in data.tests
        ]
        texts.append(data.label.number(float(np.mean(scores))) if scores else NO_VALUE)
    return texts


def drops(data: ComparisonData) -> Drawn:
    """The paper's Figure 3: the score of an SFT model after parts of its update are dropped."""
    title, label = "Drops of one SFT model, without retraining", data.label
    sft = arm(SFT, data.rows, "0")
    if not sft.scores:
        return Drawn("drop", title, "No SFT model has a score yet.")
    figure, axes = canvas("drop rate (for GMT: mask ratio)", label.text)
    handles: list[Line2D] = []
    rows: list[list[str]] = []
    for index, (rule, (name, colour)) in enumerate(RULES.items()):
        arms = [sft, *(arm(Setting(rule, r), data.rows, f"{r:g}") for r in data.drop_rates)]
        handles.append(_line(axes, data, arms, name, colour, MARKERS[index], rows))
    masked = [arm(setting_at(r), data.sensitivity, f"{r:g}") for r in (0.0, *data.drop_rates)]
    if any(one.scores for one in masked[1:]):
        handles.append(_line(axes, data, masked, "GMT, trained", SFT_COLOUR, "D", rows))
    caption = (
        "Means over seeds with 95 % intervals that hold simultaneously within each curve; drop "
        f"rate 0 is SFT. {DROP_CLAIM}"
    )
    if not any(one.scores for one in masked[1:]):
        caption += " GMT's curve is missing, because it comes from the sensitivity study."
    legend(figure, handles, 2)
    heads = ["curve", "rate", "seeds", "mean", "95 %"]
    return Drawn("drop", title, caption, figure, table(heads, rows))


def _line(
    axes: Axes,
    data: ComparisonData,
    arms: Sequence[Arm],
    name: str,
    colour: str,
    marker: str,
    rows: list[list[str]],
) -> Line2D:
    """Draw one curve and append its numbers to `rows`."""
    some, label = [one for one in arms if one.scores], data.label
    intervals = intervals_of(some)
    for one in some:
        i = intervals.get(one.name)
        span = NO_VALUE if i is None else label.span(i.low, i.high)
        rows.append([name, one.name, str(one.n), label.number(one.mean), span])
    reach = [
        0.0 if one.name not in intervals else intervals[one.name].high - one.mean for one in some
    ]
    axes.errorbar(
        [float(one.name) for one in some],
        [label.shown(one.mean) for one in some],
        yerr=reach,
        color=colour,
        marker=marker,
        capsize=2,
        linewidth=1.5,
    )
    return Line2D([], [], color=colour, marker=marker, label=name)


def less_data(data: ComparisonData) -> Drawn:
    """Methods on shares of the training rows."""
    title, label = "Methods on less data", data.label
    colours = {"sft": SFT_COLOUR, "hft": "#805ad5", "random": GREY, "gmt": LINE_COLOUR}
    figure, axes = canvas("share of the training rows", label.text)
    handles, rows = [], list[list[str]]()
    for index, (name, colour) in enumerate(colours.items()):
        arms = [
            arm(settings_of(data.mask_ratio or 0.0, share)[name], data.rows, f"{share:g}")
            for share in data.fractions
        ]
        if any(one.scores for one in arms):
            handles.append(_line(axes, data, arms, NAMES[name], colour, MARKERS[index], rows))
    if not handles:
        return Drawn("data", title, "No method has a score yet.")
    axes.set_xscale("log")
    axes.set_xticks(list(data.fractions), [f"{share:g}" for share in data.fractions])
    axes.minorticks_off()
    legend(figure, handles, 2)
    caption = (
        f"Mask ratio {data.mask_ratio:g}; every share trains on the same number of examples, so "
        "fewer rows are repeated more often. The 95 % intervals hold simultaneously within each "
        "curve."
    )
    heads = ["method", "share", "seeds", "mean", "95 %"]
    return Drawn("data", title, caption, figure, table(heads, rows))


def drawn_of(data: ComparisonData) -> Drawn:
    """The figure for a kind of study."""
    return {"methods": methods, "drop": drops, "data": less_data}[data.kind](data)
