"""``report`` and ``export``: write the results of a sweep to files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli.answer import Answer, Problem
from sweeps.cli.arguments import ConfigFile, Overrides, load_stored
from sweeps.cli.command_results import DomainExport
from sweeps.cli.ui import recorded_links
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.storage.study_paths import ways_to


def report(config: ConfigFile, overrides: Overrides = None) -> Answer[dict[str, list[Path]]]:
    """Write the reports of a sweep again from its records, finished or not."""
    parsed = load_stored(config, overrides)
    from sweeps.execution.reporting import rewrite

    reports = {domain: paths.all() for domain, paths in rewrite(parsed).items()}
    lines = [f"{domain}: {page}" for domain, (page, *_) in reports.items()]
    pages = ways_to(recorded_links(parsed), paths_for(parsed).folder)
    lines += [f"{label}: {page}" for label, page in pages.items()]
    missing = _missing(parsed, reports, "its study has not started, so there is no report")
    return Answer(reports, lines, problem=missing)


def _missing(config: SweepConfig, found: Collection[str], what: str) -> Problem | None:
    """The problem if a domain is missing from ``found``."""
    missing = [domain for domain in config.domains if domain not in found]
    return Problem.of(f"domain {', '.join(missing)}: {what}", 1) if missing else None


def export(
    config: ConfigFile,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Output folder; must not exist.")
    ],
    overrides: Overrides = None,
) -> Answer[dict[str, DomainExport]]:
    """Write the best configuration as the YAML of a single run, and its model with a card."""
    parsed = load_stored(config, overrides)
    from sweeps.execution.export import export as export_best

    done = export_best(parsed, folder)
    exported = {name: DomainExport.model_validate(each) for name, each in done.items()}
    whole = [domain for domain, found in exported.items() if found.model is not None]
    not_begun = "its study has not started, so there is nothing to export"
    no_weights = "no weights to export; `finetune` retrains them from its run.yaml"
    problem = _missing(parsed, exported, not_begun) or _missing(parsed, whole, no_weights)
    lines = [
        f"{domain}: {found.config}\n{domain}: {found.model or 'its weights were removed'}"
        for domain, found in exported.items()
    ]
    return Answer(exported, lines, problem=problem)
