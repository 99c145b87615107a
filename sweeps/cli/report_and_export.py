"""``report`` and ``export``: write the results of a sweep to files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli.arguments import ConfigFile, Overrides, load_stored, mistakes_explained, refuse
from sweeps.config.sweep_config import SweepConfig


def report(config: ConfigFile, overrides: Overrides = None) -> None:
    """Write the reports of a sweep again from its records, finished or not."""
    with mistakes_explained():
        parsed = load_stored(config, overrides)
        from sweeps.execution.reporting import rewrite

        reports = rewrite(parsed)
    for domain, paths in reports.items():
        print(f"{domain}: {paths.html}")
    _check_all(parsed, reports, "its study has not started, so there is no report")


def _check_all(config: SweepConfig, found: Collection[str], what: str) -> None:
    """End with exit code 1 if a domain is missing from ``found``."""
    if missing := [domain for domain in config.domains if domain not in found]:
        refuse(f"domain {', '.join(missing)}: {what}", code=1)


def export(
    config: ConfigFile,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Output folder; must not exist.")
    ],
    overrides: Overrides = None,
) -> None:
    """Write the best configuration as the YAML of a single run, and its model with a card."""
    with mistakes_explained():
        parsed = load_stored(config, overrides)
        from sweeps.execution.export import export as export_best

        exported = export_best(parsed, folder)
    for domain, found in exported.items():
        model = "its weights were removed" if found.model is None else str(found.model)
        print(f"{domain}: {found.config}\n{domain}: {model}")
    _check_all(parsed, exported, "its study has not started, so there is nothing to export")
    whole = [domain for domain, found in exported.items() if found.model is not None]
    _check_all(parsed, whole, "no weights to export; `finetune` retrains them from its run.yaml")
