"""The comparison of several methods: its data, and the paper's Tables 1 and 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import final

import numpy as np

from sweeps.report import drawing
from sweeps.report.against_sft import Items, against_sft, on_test
from sweeps.report.arm_comparison import ALPHA, Comparison, against_control
from sweeps.report.arms import SFT, Arm, Setting, TooFewScores, arm, scored_at
from sweeps.report.intervals import bars, shown_intervals
from sweeps.report.page import Cells, Drawn, table
from sweeps.report.published import gains
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
TOO_FEW = "Requires two methods with two seeds each."
DERIVED = ("drop_trivial", "dare")
"""The methods whose models are those of SFT with a part of the update dropped."""


@final
@dataclass(frozen=True)
class ComparisonData:
    """One study of several methods in one domain.

    `mask_ratio` is GMT's; `arms`: the mask ratio or drop rate of each method in `methods`, and
    `choices` what the paper leaves open. `margin` was `declared` as it says. `tests[trial key]`:
    "<benchmark>/score" and more, on test items; `items`: their scores one by one. `sensitivity`:
    rows of a finished sensitivity study, whose curve is drawn over the drops.
    """

    name: str
    domain: str
    kind: str
    label: ScoreLabel
    rows: tuple[TrialRow, ...]
    config_yaml: str
    mask_ratio: float | None = None
    arms: Mapping[str, float] = field(default_factory=dict)
    choices: str = ""
    margin: float | None = None
    declared: str = ""
    drop_rates: tuple[float, ...] = ()
    fractions: tuple[float, ...] = ()
    tests: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    items: Items = field(default_factory=dict)
    sensitivity: tuple[TrialRow, ...] = ()


def settings_of(data: ComparisonData) -> dict[str, Setting]:
    """The base model and each arm by the name shown, in the paper's order."""
    found = {NAMES[BASE.method]: BASE}
    for method, shown in NAMES.items():
        if (ratio := data.arms.get(method)) is not None:
            own = f" {ratio:g}" if ratio not in (0.0, data.mask_ratio) else ""
            found[f"{shown}{own}"] = Setting(method, ratio)
    return found


def arms_of(data: ComparisonData) -> dict[str, Arm]:
    """The replicates of each arm by the name shown, in the paper's order."""
    return {name: arm(each, data.rows, name) for name, each in settings_of(data).items()}


def methods(data: ComparisonData) -> Drawn:
    """The paper's Tables 1 and 2: each method's mean, and its difference from SFT."""
    title, label, settings = "Methods side by side", data.label, settings_of(data)
    arms = arms_of(data)
    trained, derived = compared(data)
    found = shown_intervals(trained, label)
    intervals = dict(zip([one.name for one in trained], found, strict=True))
    if len(trained) + len(derived) < 2 or None in found:
        return Drawn("methods", title, TOO_FEW)
    against = versus_sft(trained, derived, arms["SFT"], data.margin or 0.0)
    figure, axes = drawing.canvas(label.text, "", (5.6, 0.8 + 0.35 * len(arms)))
    rows: list[Cells] = []
    for name, one in arms.items():
        interval, versus = intervals.get(name), against.get(name)
        if one.scores and settings[name] != BASE:  # far from all others; it is in the table
            colour = drawing.SFT_COLOUR if name == "SFT" else drawing.LINE_COLOUR
            dot: drawing.Style = {"color": colour, "marker": "o", "capsize": 3}
            axes.errorbar(label.shown(one.mean), name, xerr=bars([interval], label), **dot)
            shown = [label.shown(score) for score in one.scores]
            axes.scatter(shown, [name] * one.n, color=drawing.GREY, s=14, alpha=0.8)
        setting = settings[name]
        rows.append(
            {
                "method": name,
                **_choice(data, setting),
                "seeds": one.n,
                "validation": label.number(one.mean if one.scores else None),
                "95 %": label.interval(interval),
                "minus SFT": label.difference(versus and versus.difference),
                "95 % minus SFT": label.interval(versus, signed=True),
                "verdict against SFT": versus and _told(data, versus),
                **_test_scores(data, setting),
                **_costs(data, setting),
            }
        )
    axes.invert_yaxis()
    return Drawn("methods", title, _caption(data), figure, table(rows))


def verdict(data: ComparisonData) -> str:
    """Which methods differ from SFT on validation items, in one sentence."""
    control, found = arms_of(data)["SFT"], dict[str, list[str]]()
    for name, one in versus_sft(*compared(data), control, data.margin or 0.0).items():
        told = _told(data, one)
        size = f"{data.label.difference(one.difference)}, 95 % "
        size += data.label.interval(one, signed=True)
        found.setdefault(told, []).append(f"{name} ({size})" if told == "different" else name)
    if not found:
        return f"No verdict yet. {TOO_FEW}"
    groups = "; ".join(f"{told}: {', '.join(names)}" for told, names in sorted(found.items()))
    return f"Against SFT, on validation items, {control.n} seeds each: {groups}."


def compared(data: ComparisonData) -> tuple[list[Arm], list[Arm]]:
    """The trained arms with scores, and those that derive from SFT's models."""
    arms, sides = arms_of(data), (list[Arm](), list[Arm]())
    for name, setting in settings_of(data).items():
        if arms[name].scores and setting != BASE:
            sides[setting.method in DERIVED].append(arms[name])
    return sides


def versus_sft(
    trained: Sequence[Arm],
    derived: Sequence[Arm],
    control: Arm,
    margin: float,
    alpha: float = ALPHA,
) -> dict[str, Comparison]:
    """Each arm against SFT, the `control` among `trained`, by name.

    A derived arm shares its luck with the SFT model of its seed, so it has no part in the pooled
    spread: it is compared by its paired differences alone. Each test has its share of `alpha`.
    """
    others = [one for one in trained if one != control]
    found: dict[str, Comparison] = {}
    groups = [group for group in (others, *([one] for one in derived)) if group]
    for group in groups if control.scores else ():
        level = alpha * len(group) / (len(others) + len(derived))
        with suppress(TooFewScores):
            versus = against_control([control, *group], control, margin, level)
            found |= {one.name: one for one in versus.arms}
    return found


def _caption(data: ComparisonData) -> str:
    margin = f"Margin \u00b1{data.margin:g}, {data.declared}. " if data.margin else ""
    return (
        "Same data and seeds. Each arm's ratio and nuisance parameters were given, or tuned on "
        "seeds that no replicate uses; every tuned arm has as many tuning trials, those of a drop "
        f"train nothing. {margin}Intervals hold for all trained methods simultaneously and "
        "exclude the seed effect that all share. Those of differences from SFT hold for all "
        "methods simultaneously: Dunnett's, and paired ones for drops and DARE, which derive from "
        "SFT models. "
        f"The base model is in the table alone. Trained share: of the weights, by one update. "
        f"{data.choices}"
    )


def _choice(data: ComparisonData, setting: Setting) -> Cells:
    """The arm's ratio, of how many it was chosen, and the trials that chose it and the nuisance
    parameters."""
    tuning = [r for r in data.rows if r.stage == "tuning" and r.method == setting.method]
    count = len({row.mask_ratio for row in tuning})
    text = f"{setting.mask_ratio:g}, {f'best of {count}' if count > 1 else 'given'}"
    return {"ratio": text if setting.mask_ratio else None, "tuning trials": len(tuning)}


def methods_on_test(data: ComparisonData) -> Drawn:
    """Each arm minus SFT on the test items."""
    settings = {name: each for name, each in settings_of(data).items() if each != SFT}
    found = {name: against_sft(data.items, data.rows, each) for name, each in settings.items()}
    return on_test("Methods minus SFT on test items", data.label, found)


def papers_gains(data: ComparisonData) -> Drawn:
    """Our differences from SFT beside those of the paper's Tables 1 and 2."""
    settings = {NAMES[each.method]: each for each in settings_of(data).values()}
    arms = {name: arm(each, data.rows, name) for name, each in settings.items()}
    rows: list[Cells] = []
    for name, values in gains().items():
        mean = [arms[each].mean for each in (name, "SFT") if each in arms and arms[each].scores]
        ours = data.label.difference(mean[0] - mean[1]) if len(mean) == 2 else None
        span = f"{min(values):+.1f} to {max(values):+.1f}"
        rows.append({"minus SFT": name, "here": ours, "paper, points": span})
    caption = (
        "Here: validation scores of this study. Paper: the range over the models and domains of "
        "Tables 1 and 2, of the mean over benchmarks; one run each."
    )
    return Drawn("", "Gains over SFT, here and in the paper", caption, table=table(rows))


def _told(data: ComparisonData, versus: Comparison) -> str:
    """The verdict; without a preregistered margin, never "equivalent"."""
    if data.margin is not None:
        return versus.verdict
    beyond = versus.low > 0 or versus.high < 0
    return "different" if beyond and versus.low < versus.high else "not resolved"


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
