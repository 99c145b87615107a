"""``report`` and ``export``: what a sweep found, as files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.cli.arguments import ConfigFile, Overrides, load_stored, mistakes_explained, refuse

if TYPE_CHECKING:
    from sweeps.config.sweep_config import SweepConfig


def report(config: ConfigFile, overrides: Overrides = None) -> None:
    """Write the reports of a sweep again, finished or not, from its records alone."""
    with mistakes_explained():
        parsed = load_stored(config, overrides)
        from sweeps.execution.reporting import rewrite

        reports = rewrite(parsed)
    for domain, paths in reports.items():
        print(f"{domain}: {paths.html}")
    _check_all(parsed, reports, "its study has not begun, so there is no report")


def _check_all(config: SweepConfig, found: Collection[str], what: str) -> None:
    """End with exit code 1 where a domain is missing in what was ``found``."""
    if missing := [domain for domain in config.domains if domain not in found]:
        refuse(f"domain {', '.join(missing)}: {what}", code=1)


def export(
    config: ConfigFile,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; must be new.")],
    overrides: Overrides = None,
) -> None:
    """Write the best configuration as a single run's YAML, and its model with a model card."""
    with mistakes_explained():
        parsed = load_stored(config, overrides)
        from sweeps.execution.export import export as export_best

        exported = export_best(parsed, folder)
    for domain, found in exported.items():
        model = "its weights are gone" if found.model is None else str(found.model)
        print(f"{domain}: {found.config}\n{domain}: {model}")
    _check_all(parsed, exported, "its study has not begun, so there is nothing to export")
    whole = [domain for domain, found in exported.items() if found.model is not None]
    _check_all(parsed, whole, "no weights to export; `finetune` trains them from its run.yaml")
