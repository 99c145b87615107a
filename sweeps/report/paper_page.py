"""The report over all studies of a paper, by domain, with Table 4: the best mask ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import final

from sweeps.report.page import NO_VALUE, Drawn, drawn, notes, page, png, reproduction, table
from sweeps.report.published import BEST_RATIO, DROP_CLAIM, NO_NUMBERS, SENSITIVITY_CLAIM
from sweeps.report.trial_row import ScoreLabel, TrialRow


def best_ratio(found: Mapping[str, tuple[ScoreLabel, TrialRow | None, int]]) -> Drawn:
    """Table 4. `found[domain]`: label, best finished trial, number of finished trials."""
    rows = []
    for domain, (label, row, count) in found.items():
        if row is None or row.score is None:
            rows.append([domain, NO_VALUE, NO_VALUE, NO_VALUE, NO_VALUE, str(count)])
            continue
        rows.append(
            [
                domain,
                f"{row.mask_ratio:g}",
                str(row.accumulation_interval),
                f"{row.learning_rate:.2e}",
                f"{label.number(row.score)} {label.text}",
                str(count),
            ]
        )
    heads = ["domain", "mask ratio", "N", "learning rate", "validation", "trials"]
    published = table(["paper", "mask ratio"], [[k, f"{v:g}"] for k, v in BEST_RATIO.items()])
    caption = (
        "The best trial of each search, on validation items. A search shows which ratio to use, "
        "not whether the ratio matters. The paper's values are for other models and data."
    )
    return Drawn("best_ratio", "Best mask ratio", caption, None, table(heads, rows) + published)


@final
@dataclass(frozen=True)
class PaperDomain:
    """One domain: its verdict in a sentence, its cost, and its figures (the curve first)."""

    domain: str
    headline: str
    cost: str
    parts: tuple[Drawn, ...]


def render(
    name: str, domains: Sequence[PaperDomain], shared: Sequence[Drawn], config_yaml: str
) -> str:
    """The whole page: verdicts, costs and curves first, then the other figures by domain."""
    title = f"{name}: the paper's tables and figures"
    verdicts = "".join(
        f'<p class="verdict">{escape(one.headline)}</p><p class="lead">{escape(one.cost)}</p>'
        for one in domains
    )
    parts = [f"<h1>{escape(title)}</h1>", verdicts]
    for one in domains:
        parts.append(f"<h1>{escape(one.domain)}</h1>")
        parts += [drawn(_named(one.domain, part)) for part in one.parts]
    parts += [drawn(part) for part in shared]
    lines = [SENSITIVITY_CLAIM, DROP_CLAIM, NO_NUMBERS]
    return page(
        title,
        [*parts, notes("What the paper says", lines), reproduction((), config_yaml)],
    )


def write_paper(
    name: str,
    domains: Sequence[PaperDomain],
    shared: Sequence[Drawn],
    config_yaml: str,
    folder: Path,
) -> Path:
    """Write report.html, and every figure as PNG; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in domains:
        for part in one.parts:
            if part.figure is not None:
                (folder / f"{one.domain}_{part.name}.png").write_bytes(png(part.figure))
    path = folder / "report.html"
    path.write_text(render(name, domains, shared, config_yaml), encoding="utf-8")
    return path


def _named(domain: str, part: Drawn) -> Drawn:
    """A figure with ids that are unique across domains."""
    return Drawn(f"{domain}-{part.name}", part.title, part.caption, part.figure, part.table)
