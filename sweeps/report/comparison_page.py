"""The report page of a study that compares methods, drops, or methods on less data."""

from __future__ import annotations

from itertools import chain

from sweeps.report import comparison_curves, methods_page
from sweeps.report.arms import Arm
from sweeps.report.comparison_curves import data_arms, drop_arms, drops, less_data
from sweeps.report.intervals import spread_caveat, spread_differs_p
from sweeps.report.methods_page import (
    ComparisonData,
    compared,
    methods,
    methods_on_test,
    papers_gains,
)
from sweeps.report.page import Drawn, Page
from sweeps.report.published import published_scores
from sweeps.report.sensitivity_page import cost

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
    told = methods_page.verdict(data) if is_table else comparison_curves.verdict(data)
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
