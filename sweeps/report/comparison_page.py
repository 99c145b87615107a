"""The report page of a study that compares methods, drops, or methods on less data.

Its curves over a fraction are the paper's Figure 3 (drops of SFT models) and less data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from sweeps.report import drawing, methods_page
from sweeps.report.arms import SFT, Arm, Interval, Setting, arm, setting_at
from sweeps.report.intervals import bars, shown_intervals, spread_caveat, spread_differs_p
from sweeps.report.methods_page import (
    NAMES,
    ComparisonData,
    compared,
    methods,
    methods_on_test,
    papers_gains,
)
from sweeps.report.page import Cells, Drawn, Page, table
from sweeps.report.published import DROP_CLAIM, SENSITIVITY_CLAIM, published_scores
from sweeps.report.sensitivity import SensitivityResult
from sweeps.report.sensitivity_page import cost
from sweeps.report.trial_row import ScoreLabel

RULES: Mapping[str, tuple[str, str]] = {
    "drop_trivial": ("smallest changes dropped", drawing.LINE_COLOUR),
    "drop_random": ("random ones dropped", drawing.GREY),
    "drop_salient": ("largest changes dropped", drawing.VIOLET),
}
METHOD_COLOURS: Mapping[str, str] = {
    "sft": drawing.SFT_COLOUR,
    "hft": drawing.VIOLET,
    "random": drawing.GREY,
    "gmt": drawing.GMT_COLOUR,
}
Curve = tuple[Any, ScoreLabel, Sequence[Arm], Sequence[Interval | None]]
"""Its colour, what its score is, its points, each named by its place, and their intervals."""


def drop_arms(data: ComparisonData) -> dict[str, list[Arm]]:
    """SFT, at rate 0, and what remains after each drop, by rule."""
    sft = arm(SFT, data.rows, "0")
    return {
        rule: [sft, *(arm(Setting(rule, r), data.rows, f"{r:g}") for r in data.drop_rates)]
        for rule in RULES
    }


def drops(data: ComparisonData) -> Drawn:
    """The paper's Figure 3: the score of an SFT model after parts of its update are dropped."""
    title, found = "Drops of one SFT model, without retraining", drop_arms(data)
    if not found["drop_trivial"][0].scores:
        return Drawn("drop", title, "No SFT model has a score yet.")
    curves = {
        RULES[rule][0]: (RULES[rule][1], data.label, arms, intervals)
        for rule, (arms, intervals) in pooled(found, data.label).items()
    }
    caption = (
        "Means over seeds with 95 % intervals that hold simultaneously for all drops; drop "
        f"rate 0 is SFT. {data.choices} {DROP_CLAIM}"
    )
    ratios = sorted({row.mask_ratio for row in data.sensitivity if row.stage == "replicate"})
    masked = [arm(setting_at(r), data.sensitivity, f"{r:g}") for r in ratios]
    if any(one.scores for one in masked if one.name != "0"):
        intervals = shown_intervals(masked, data.label)
        curves["GMT, trained"] = (drawing.GMT_COLOUR, data.label, masked, intervals)
        caption += " GMT's curve and its intervals are those of the sensitivity study."
    else:
        caption += " GMT's curve is missing, because it comes from the sensitivity study."
    axis = "drop rate (for GMT: mask ratio)"
    return _curves(Drawn("drop", title, caption), axis, "curve", curves)


def pooled(
    curves: Mapping[str, Sequence[Arm]], label: ScoreLabel
) -> dict[str, tuple[Sequence[Arm], list[Interval | None]]]:
    """Each curve with its intervals, of one spread over all arms: an arm has the same one in
    every curve."""
    unique = list({id(one): one for arms in curves.values() for one in arms}.values())
    found = {id(a): i for a, i in zip(unique, shown_intervals(unique, label), strict=True)}
    return {name: (arms, [found[id(one)] for one in arms]) for name, arms in curves.items()}


def _curves(part: Drawn, axis: str, kind: str, curves: Mapping[str, Curve]) -> Drawn:
    """The part with its curves by name, each a `kind`."""
    texts = {label.text for _, label, _, _ in curves.values()}
    figure, axes = drawing.canvas(
        axis, texts.pop() if len(texts) == 1 else f"score of each {kind}"
    )
    rows: list[Cells] = []
    for marker, (name, (colour, label, arms, intervals)) in zip(
        drawing.MARKERS, curves.items(), strict=False
    ):
        some = [(one, found) for one, found in zip(arms, intervals, strict=True) if one.scores]
        places, means = [float(a.name) for a, _ in some], [label.shown(a.mean) for a, _ in some]
        line: drawing.Style = {"color": colour, "marker": marker, "linewidth": 1.5, "label": name}
        reach = bars([found for _, found in some], label)
        axes.errorbar(places, means, yerr=reach, capsize=2, **line)
        for one, found in some:
            cells = {kind: name, axis.partition(" (")[0]: one.name, "seeds": one.n}
            spans = {"mean": label.number(one.mean), "95 %": label.interval(found)}
            rows.append({**cells, **spans})
    drawing.legend(figure, 2)
    return replace(part, figure=figure, table=table(rows))


def data_arms(data: ComparisonData) -> dict[str, list[Arm]]:
    """Each method with scores on every share of the training rows."""
    found = {}
    for name in METHOD_COLOURS:
        ratio = (data.mask_ratio or 0.0) if name in ("random", "gmt") else 0.0
        found[name] = [
            arm(Setting(name, ratio, share), data.rows, f"{share:g}") for share in data.fractions
        ]
    return {name: arms for name, arms in found.items() if any(one.scores for one in arms)}


def verdict(data: ComparisonData) -> str:
    """Where the curves end: after the largest drop, or on the fewest training rows."""
    names, found, place = NAMES, data_arms(data), 0
    if data.kind == "drop":
        curves = drop_arms(data)
        found, place = {"sft": curves["drop_trivial"][:1], **curves}, -1
        names = {**NAMES, **{rule: shown for rule, (shown, _) in RULES.items()}}
    ends, seeds = dict[str, list[str]](), set[int]()
    for name, (arms, intervals) in pooled(found, data.label).items():
        known = [pair for pair in zip(arms, intervals, strict=True) if pair[0].scores]
        for one, interval in known[place:][:1]:
            span = data.label.interval(interval)
            text = f"{names[name]} {data.label.number(one.mean)} ({span})"
            ends.setdefault(one.name, []).append(text)
            seeds.add(one.n)
    if not ends:
        return "No result yet: no model has a score."
    what = "drop rate" if data.kind == "drop" else "share of the training rows"
    count = " or ".join(map(str, sorted(seeds)))
    told = "; ".join(f"at {what} {where}: {', '.join(each)}" for where, each in ends.items())
    return f"Means over {count} seeds on validation items (95 %), {told}. No test compares them."


def less_data(data: ComparisonData) -> Drawn:
    """Methods on shares of the training rows."""
    found = data_arms(data)
    if not found:
        return Drawn("data", "Methods on less data", "No method has a score yet.")
    curves = {
        NAMES[name]: (METHOD_COLOURS[name], data.label, arms, intervals)
        for name, (arms, intervals) in pooled(found, data.label).items()
    }
    caption = (
        f"Mask ratio {data.mask_ratio:g}; every share trains on the same number of examples, so "
        "fewer rows are repeated more often. The 95 % intervals hold simultaneously for all "
        f"points. {data.choices}"
    )
    part = Drawn("data", "Methods on less data", caption)
    part = _curves(part, "share of the training rows", "method", curves)
    assert part.figure is not None
    [axes] = part.figure.axes
    axes.set_xscale("log")
    axes.set_xticks(list(data.fractions), [f"{share:g}" for share in data.fractions])
    axes.minorticks_off()
    return part


def all_domains(found: Mapping[str, tuple[ScoreLabel, SensitivityResult]]) -> Drawn:
    """The paper's Figure 2: the curves of sensitivity studies in one picture, by domain."""
    curves: dict[str, Curve] = {
        domain: (drawing.series_colour(index), label, result.arms, result.intervals)
        for index, (domain, (label, result)) in enumerate(found.items())
    }
    caption = (
        "Mean over seeds with 95 % intervals that hold simultaneously for the ratios of a domain; "
        f"0 is SFT. {SENSITIVITY_CLAIM}"
    )
    part = Drawn("curves", "Score against mask ratio, all domains", caption)
    return _curves(part, "mask ratio", "domain", curves)


CAVEATS = {
    "methods": [
        "Ratios and nuisance parameters were tuned on the validation items that the verdicts use, "
        "with other seeds: what suits these items, not others, shows on the test items only.",
        "Intervals hold for other seeds of the same model, data and recipe.",
    ],
    "drop": [
        "Dropping parts of a finished update and masking gradients during training are different: "
        "the curves share an axis but are not directly comparable.",
    ],
    "data": [
        "Only the share of the rows changes; nothing is retuned for less data unless "
        "study.nuisance holds lists. Random Mask has GMT's ratio.",
    ],
}


def page(data: ComparisonData) -> Page:
    """The whole page: verdict, cost and figure, then test items and the paper's numbers."""
    is_table = data.kind == "methods"
    sections = [methods_on_test(data), papers_gains(data)] if is_table else []
    caveats = [*CAVEATS[data.kind], *spread_caveat(spread_differs_p(_arms(data)))]
    told = methods_page.verdict(data) if is_table else verdict(data)
    title, lead = f"{data.name}: {data.domain}, {data.kind}", (told, cost(data.rows))
    figures = {"": [drawn_of(data)]}
    return Page(
        title,
        [lead],
        figures,
        data.config_yaml,
        sections=sections,
        appendix=[published_scores()] if is_table else [],
        caveats=caveats,
    )


def drawn_of(data: ComparisonData) -> Drawn:
    """The figure for a kind of study."""
    return {"methods": methods, "drop": drops, "data": less_data}[data.kind](data)


def _arms(data: ComparisonData) -> list[Arm]:
    """The arms that share one pooled spread, each once."""
    if data.kind == "methods":
        return compared(data)[0]
    curves = (drop_arms if data.kind == "drop" else data_arms)(data)
    every = {id(one): one for one in chain.from_iterable(curves.values())}
    return [one for one in every.values() if one.scores]
