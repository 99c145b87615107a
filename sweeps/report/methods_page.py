"""Figures and tables that compare methods, drops, and methods on less data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np

from sweeps.report import drawing
from sweeps.report.arms import (
    SFT,
    Arm,
    Interval,
    Setting,
    TooFewScores,
    arm,
    scored_at,
    setting_at,
)
from sweeps.report.equivalence import Comparison, against_control
from sweeps.report.intervals import simultaneous_intervals
from sweeps.report.page import Cells, Drawn, table
from sweeps.report.published import DROP_CLAIM, NO_NUMBERS
from sweeps.report.trial_row import NO_VALUE, SCORE, ScoreLabel, TrialRow

NAMES: Mapping[str, str] = {
    "pretrained": "Pre-trained",
    "sft": "SFT",
    "drop_trivial": "One-off Drop",
    "hft": "HFT",
    "random": "Random Mask",
    "gmt": "GMT",
    "lora": "LoRA",
    "shira": "SHiRA",
    "dare": "DARE",
}
BASE = Setting("pretrained", 0.0)
RULES: Mapping[str, tuple[str, str]] = {
    "drop_trivial": ("smallest changes dropped", drawing.LINE_COLOUR),
    "drop_random": ("random ones dropped", drawing.GREY),
    "drop_salient": ("largest changes dropped", "#805ad5"),
}


@final
@dataclass(frozen=True)
class ComparisonData:
    """One study of several methods in one domain.

    `mask_ratio` is GMT's; `arms`: the mask ratio or drop rate of each method in `methods`.
    `tests[trial key]`: "<benchmark>/score" and more, on test items. `sensitivity`: rows of a
    finished sensitivity study, whose curve is drawn over the drops.
    """

    name: str
    domain: str
    kind: str
    label: ScoreLabel
    rows: tuple[TrialRow, ...]
    config_yaml: str
    mask_ratio: float | None = None
    arms: Mapping[str, float] = field(default_factory=dict)
    margin: float | None = None
    drop_rates: tuple[float, ...] = ()
    fractions: tuple[float, ...] = ()
    tests: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    sensitivity: tuple[TrialRow, ...] = ()


def settings_of(data: ComparisonData) -> dict[str, Setting]:
    """The base model and each arm by the name shown, in the paper's order."""
    found = {NAMES[BASE.method]: BASE}
    for method, shown in NAMES.items():
        if (ratio := data.arms.get(method)) is not None:
            own = f" {ratio:g}" if ratio not in (0.0, data.mask_ratio) else ""
            found[f"{shown}{own}"] = Setting(method, ratio)
    return found


def intervals_of(arms: Sequence[Arm]) -> dict[str, Interval]:
    """Simultaneous intervals of the arms that have scores; empty if there are too few seeds."""
    some = [one for one in arms if one.scores]
    try:
        return dict(zip([a.name for a in some], simultaneous_intervals(some), strict=True))
    except TooFewScores:
        return {}


def methods(data: ComparisonData) -> Drawn:
    """The paper's Tables 1 and 2: each method's mean, and its difference from SFT."""
    title, label = f"Methods at mask ratio {data.mask_ratio:g}", data.label
    settings = settings_of(data)
    arms = {name: arm(setting, data.rows, name) for name, setting in settings.items()}
    trained = [one for name, one in arms.items() if settings[name] != BASE and one.scores]
    intervals = intervals_of(trained)
    if len(intervals) < 2:
        return Drawn("methods", title, "Requires two methods with two seeds each.")
    against = {}
    if (control := arms["SFT"]).scores:
        compared = against_control(trained, control, data.margin or 0.0)
        against = {one.name: one for one in compared.arms}
    figure, axes = drawing.canvas(label.text, "", (5.6, 1.1 + 0.35 * len(arms)))
    rows: list[Cells] = []
    for name, one in arms.items():
        interval, versus = intervals.get(name), against.get(name)
        if one.scores:
            colour = drawing.SFT_COLOUR if name == "SFT" else drawing.LINE_COLOUR
            reach = 0.0 if interval is None else interval.high - interval.estimate
            dot: drawing.Style = {"color": colour, "marker": "o", "capsize": 3}
            axes.errorbar(label.shown(one.mean), name, xerr=reach, **dot)
            shown = [label.shown(score) for score in one.scores]
            axes.scatter(shown, [name] * one.n, color=drawing.GREY, s=14, alpha=0.6)
        rows.append(
            {
                "method": name,
                "seeds": one.n,
                "validation": label.number(one.mean if one.scores else None),
                "95 %": label.interval(interval),
                "minus SFT": label.difference(versus and versus.difference),
                "95 % minus SFT": label.interval(versus, signed=True),
                "verdict against SFT": versus and _told(data, versus),
                **_test_scores(data, settings[name]),
                **_costs(data, settings[name]),
            }
        )
    axes.invert_yaxis()
    caption = (
        "Same data, seeds and budget. Intervals hold for all methods simultaneously and exclude "
        "the seed effect that all methods share; differences from SFT use Dunnett's intervals. "
        "Trained share: of the weights, by one update. Drops and DARE are derived from SFT. "
        f"{NO_NUMBERS}"
    )
    return Drawn("methods", title, caption, figure, table(rows))


def _told(data: ComparisonData, versus: Comparison) -> str:
    """The verdict; without a preregistered margin, never "equivalent"."""
    if data.margin is not None:
        return versus.verdict
    return "different" if versus.low > 0 or versus.high < 0 else "not resolved"


def _test_scores(data: ComparisonData, setting: Setting) -> Cells:
    """The mean over seeds of each benchmark's test score."""
    suffix = f"/{SCORE}"
    keys = {key for scores in data.tests.values() for key in scores if key.endswith(suffix)}
    mine = [r for r in data.rows if r.stage == "replicate" and setting.holds(r)]
    found = {}
    for key in sorted(keys):
        scores = [data.tests[row.key][key] for row in mine if row.key in data.tests]
        mean = float(np.mean(scores)) if scores else None
        found[f"test, {key.removesuffix(suffix)}"] = data.label.number(mean)
    return found


def _costs(data: ComparisonData, setting: Setting) -> Cells:
    """Means over the arm's seeds, in the columns that the study has; forgetting is more than the
    base model's."""
    mine = scored_at(data.rows, setting, "replicate")
    text = "forgetting/bits_per_byte"
    base = _mean(text, scored_at(data.rows, BASE, "replicate"))
    columns: dict[str, tuple[str, float | None, str]] = {
        "trained share": ("cost/trained_share", 0.0, ".3g"),
        "peak memory, GiB": ("cost/peak_memory_gib", 0.0, ".2f"),
        "forgetting, bits per byte": (text, base, "+.3f"),
    }
    found: dict[str, object] = {}
    for head, (metric, origin, form) in columns.items():
        mean = _mean(metric, mine)
        known = None if mean is None or origin is None else mean - origin
        if any(metric in row.metrics for row in data.rows):
            found[head] = NO_VALUE if known is None else f"{known:{form}}"
    return found


def _mean(metric: str, rows: Sequence[TrialRow]) -> float | None:
    values = [row.metrics[metric] for row in rows if metric in row.metrics]
    return float(np.mean(values)) if values else None


def drops(data: ComparisonData) -> Drawn:
    """The paper's Figure 3: the score of an SFT model after parts of its update are dropped."""
    title = "Drops of one SFT model, without retraining"
    sft = arm(SFT, data.rows, "0")
    if not sft.scores:
        return Drawn("drop", title, "No SFT model has a score yet.")
    curves = {}
    for rule, (name, colour) in RULES.items():
        dropped = (arm(Setting(rule, r), data.rows, f"{r:g}") for r in data.drop_rates)
        curves[name] = (colour, [sft, *dropped])
    masked = [arm(setting_at(r), data.sensitivity, f"{r:g}") for r in (0.0, *data.drop_rates)]
    caption = (
        "Means over seeds with 95 % intervals that hold simultaneously within each curve; drop "
        f"rate 0 is SFT. {DROP_CLAIM}"
    )
    if any(one.scores for one in masked[1:]):
        curves["GMT, trained"] = (drawing.SFT_COLOUR, masked)
    else:
        caption += " GMT's curve is missing, because it comes from the sensitivity study."
    axis = "drop rate (for GMT: mask ratio)"
    return _curves(Drawn("drop", title, caption), data.label, axis, "curve", curves)


def _curves(
    part: Drawn,
    label: ScoreLabel,
    axis: str,
    kind: str,
    curves: Mapping[str, tuple[str, Sequence[Arm]]],
) -> Drawn:
    """The part with a curve for each (colour, arms) of `curves`, by name, which is a `kind`."""
    figure, axes = drawing.canvas(axis, label.text)
    rows: list[Cells] = []
    for marker, (name, (colour, arms)) in zip(drawing.MARKERS, curves.items(), strict=False):
        some = [one for one in arms if one.scores]
        intervals = intervals_of(some)
        reach = [i.high - i.estimate for i in intervals.values()] or [0.0] * len(some)
        places, means = [float(one.name) for one in some], [label.shown(one.mean) for one in some]
        line: drawing.Style = {"color": colour, "marker": marker, "linewidth": 1.5, "label": name}
        axes.errorbar(places, means, yerr=reach, capsize=2, **line)
        for one in some:
            cells = {kind: name, axis.partition(" ")[0]: one.name, "seeds": one.n}
            span = label.interval(intervals.get(one.name))
            rows.append({**cells, "mean": label.number(one.mean), "95 %": span})
    drawing.legend(figure, 2)
    return replace(part, figure=figure, table=table(rows))


def less_data(data: ComparisonData) -> Drawn:
    """Methods on shares of the training rows."""
    colours = {
        "sft": drawing.SFT_COLOUR,
        "hft": "#805ad5",
        "random": drawing.GREY,
        "gmt": drawing.LINE_COLOUR,
    }
    curves = {}
    for name, colour in colours.items():
        ratio = (data.mask_ratio or 0.0) if name in ("random", "gmt") else 0.0
        arms = [
            arm(Setting(name, ratio, share), data.rows, f"{share:g}") for share in data.fractions
        ]
        if any(one.scores for one in arms):
            curves[NAMES[name]] = (colour, arms)
    if not curves:
        return Drawn("data", "Methods on less data", "No method has a score yet.")
    caption = (
        f"Mask ratio {data.mask_ratio:g}; every share trains on the same number of examples, so "
        "fewer rows are repeated more often. The 95 % intervals hold simultaneously within each "
        "curve."
    )
    part = Drawn("data", "Methods on less data", caption)
    part = _curves(part, data.label, "share of the training rows", "method", curves)
    assert part.figure is not None
    [axes] = part.figure.axes
    axes.set_xscale("log")
    axes.set_xticks(list(data.fractions), [f"{share:g}" for share in data.fractions])
    axes.minorticks_off()
    return part


def drawn_of(data: ComparisonData) -> Drawn:
    """The figure for a kind of study."""
    return {"methods": methods, "drop": drops, "data": less_data}[data.kind](data)
