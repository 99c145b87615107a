"""The report over all studies of a paper, by domain, with Table 4: the best mask ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from sweeps.report.page import Cells, Drawn, Facts, Page, merged, table
from sweeps.report.published import BEST_RATIO, DROP_CLAIM, SENSITIVITY_CLAIM
from sweeps.report.sensitivity import SensitivityResult
from sweeps.report.trial_row import ScoreLabel, TrialRow


def best_ratio(found: Mapping[str, tuple[ScoreLabel, TrialRow | None, int]]) -> Drawn:
    """Table 4. `found[domain]`: label, best finished trial, number of finished trials."""
    rows: list[Cells] = []
    for domain, (label, row, count) in found.items():
        score = None if row is None else f"{label.number(row.score)} {label.text}"
        rows.append(
            {
                "domain": domain,
                "mask ratio": row and f"{row.mask_ratio:g}",
                "N": row and row.accumulation_interval,
                "learning rate": row and f"{row.learning_rate:.2e}",
                "validation": score,
                "trials": count,
            }
        )
    published = table([{"paper": k, "mask ratio": f"{v:g}"} for k, v in BEST_RATIO.items()])
    caption = (
        "The best trial of each search, on validation items. A search shows which ratio to use, "
        "not whether the ratio matters. The paper's values are for other models and data."
    )
    return Drawn("best_ratio", "Best mask ratio", caption, None, table(rows) + published)


@final
@dataclass(frozen=True)
class PaperDomain:
    """One domain: its verdict in a sentence, its cost, its boxes (the curve first), the caveats
    and the paper's own tables of its studies, links to their reports, the curve's numbers, and
    what was run."""

    domain: str
    headline: str
    cost: str
    parts: tuple[Drawn, ...]
    caveats: tuple[str, ...] = ()
    appendix: tuple[Drawn, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    curve: tuple[ScoreLabel, SensitivityResult] | None = None
    facts: Facts = ()


CLAIMS = Drawn("", "What the paper says", "", text=(SENSITIVITY_CLAIM, DROP_CLAIM))


def page(
    name: str, domains: Sequence[PaperDomain], shared: Sequence[Drawn], config_yaml: str
) -> Page:
    """The whole page: verdicts and costs first, then the figures by domain."""
    caveats = dict.fromkeys(line for one in domains for line in one.caveats)
    tables = {part.title: part for one in domains for part in one.appendix}
    links = tuple(link for one in domains for link in one.links)
    reports = Drawn("", "The report of each study", "", links=links)
    return Page(
        f"{name}: the paper's tables and figures",
        [(one.headline, one.cost) for one in domains],
        {one.domain: one.parts for one in domains} | ({"All domains": shared} if shared else {}),
        config_yaml,
        caveats=list(caveats),
        appendix=[CLAIMS, *tables.values(), reports],
        facts=merged(one.facts for one in domains),
    )
