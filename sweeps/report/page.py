"""Build report pages: boxes with figures and tables, the page around them, the index.

A page is one self-contained file, legible on a phone, in dark or light mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, final

from jinja2 import Environment, FileSystemLoader
from matplotlib.figure import Figure

from sweeps.report.drawing import svg

Cells = Mapping[str, object]
"""The cells of a table's row by column; None is shown as a dash."""

DomainResults = Mapping[str, Any]
"""What is written of a domain beside its report, as "headline", "cost", "best" and "facts"; and
"links", the pages of the tracker or the commands that serve them."""

REPORT = (
    ("report", "report/report.html"),
    ("all trials as CSV", "report/trials.csv"),
    ("results as JSON", "report/results.json"),
    ("folders of the trials", "trials/"),
)
Facts = Sequence[tuple[str, str]]
"""What was run, as (name, value): model, data, benchmarks, date, commit."""


@final
@dataclass(frozen=True)
class Drawn:
    """A box of a page: a figure, its caption and its numbers, or text above a table with a note.

    `name` is used for file names. `links`: (text, address) of other pages. With nothing else, the
    caption says what is missing.
    """

    name: str
    title: str
    caption: str
    figure: Figure | None = None
    table: str = ""
    text: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()


@final
@dataclass(frozen=True)
class Page:
    """The content of a report, from top to bottom.

    `leads`: verdicts, each with its cost. `facts`: what was run, as (name, value). `cards`: key
    numbers side by side, as (kind, label, value, note). `figures`: by heading, which may be empty.
    `appendix`: the paper's own tables. `again`: what can be done next, each with its command.
    """

    title: str
    leads: Sequence[tuple[str, str]]
    figures: Mapping[str, Sequence[Drawn]]
    config_yaml: str
    cards: Sequence[tuple[str, str, object, str]] = ()
    sections: Sequence[Drawn] = ()
    caveats: Sequence[str] = ()
    appendix: Sequence[Drawn] = ()
    facts: Facts = ()
    again: Sequence[tuple[str, str]] = ()

    def html(self) -> str:
        """The complete page; it loads nothing from elsewhere."""
        return _TEMPLATES.get_template("page.j2").render(page=self, svg=svg)


def table(rows: Sequence[Cells], best: object = None) -> str:
    """A table that scrolls; the row whose first cell is `best` is highlighted."""
    return _TEMPLATES.get_template("table.j2").render(rows=rows, best=best)


def merged(several: Iterable[Facts]) -> Facts:
    """The facts of several pages as those of one: each value once."""
    found: dict[str, dict[str, None]] = {}
    for name, value in chain.from_iterable(several):
        found.setdefault(name, {})[value] = None
    return [(name, ", ".join(values)) for name, values in found.items()]


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)


def index_page(name: str, domains: Mapping[str, DomainResults | None], config_yaml: str) -> Page:
    """The whole page; None for a domain without a report."""
    known = {domain: found for domain, found in domains.items() if found is not None}
    return Page(
        f"{name}: all domains",
        [_lead(domain, found) for domain, found in domains.items()],
        {},
        config_yaml,
        sections=[_places(domain, found) for domain, found in known.items()],
        facts=merged(found["facts"] for found in known.values()),
    )


def _lead(domain: str, found: DomainResults | None) -> tuple[str, str]:
    if found is None:
        return f"{domain}: no report yet.", ""
    best = f"Best: {found['best']}. " if found["best"] else ""
    return f"{domain}: {found['headline']}", f"{best}{found['cost']}"


def _places(domain: str, found: DomainResults) -> Drawn:
    ways = found["links"].items()
    pages = [(f"MLflow: {name}", way) for name, way in ways if "://" in way]
    commands = [f"{name}: {way}" for name, way in ways if "://" not in way]
    files = [(name, f"{domain}/{place}") for name, place in REPORT]
    return Drawn("", domain, "", text=tuple(commands), links=(*files, *pages))
