"""One report over every study of the paper, by domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import final

from sweeps.report.drawing import png
from sweeps.report.page import Drawn, drawn, notes, page, reproduction
from sweeps.report.published import DROP_CLAIM, NO_NUMBERS, SENSITIVITY_CLAIM


@final
@dataclass(frozen=True)
class PaperDomain:
    """One domain: its verdict in a sentence, what it cost, its figures (the curve first)."""

    domain: str
    headline: str
    cost: str
    parts: tuple[Drawn, ...]


def render(
    name: str, domains: Sequence[PaperDomain], shared: Sequence[Drawn], config_yaml: str
) -> str:
    """The whole page: verdicts, costs and curves first, then all else by domain."""
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
    """Write report.html and every figure as PNG; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in domains:
        for part in one.parts:
            if part.figure is not None:
                (folder / f"{one.domain}_{part.name}.png").write_bytes(png(part.figure))
    path = folder / "report.html"
    path.write_text(render(name, domains, shared, config_yaml), encoding="utf-8")
    return path


def _named(domain: str, part: Drawn) -> Drawn:
    """Ids inside the drawings of several domains must differ."""
    return Drawn(f"{domain}-{part.name}", part.title, part.caption, part.figure, part.table)
