"""The page over all domains of a sweep: verdicts first, then where to find each domain's files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeps.report.page import Drawn, Page, merged

Results = Mapping[str, Any]
"""What is written of a domain beside its report, as "headline", "cost", "best" and "facts"; and
"links", the pages of the tracker or the commands that serve them."""

REPORT = (
    ("report", "report/report.html"),
    ("all trials as CSV", "report/trials.csv"),
    ("results as JSON", "report/results.json"),
    ("folders of the trials", "trials/"),
)


def page(name: str, domains: Mapping[str, Results | None], config_yaml: str) -> Page:
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


def _lead(domain: str, found: Results | None) -> tuple[str, str]:
    if found is None:
        return f"{domain}: no report yet.", ""
    best = f"Best: {found['best']}. " if found["best"] else ""
    return f"{domain}: {found['headline']}", f"{best}{found['cost']}"


def _places(domain: str, found: Results) -> Drawn:
    ways = found["links"].items()
    pages = [(f"MLflow: {name}", way) for name, way in ways if "://" in way]
    commands = [f"{name}: {way}" for name, way in ways if "://" not in way]
    files = [(name, f"{domain}/{place}") for name, place in REPORT]
    return Drawn("", domain, "", text=tuple(commands), links=(*files, *pages))
