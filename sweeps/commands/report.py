"""``report`` and ``export``: what a sweep found, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeps.commands.shared import ConfigFile, Overrides, load_stored, mistakes_explained


def report(config: ConfigFile, overrides: Overrides = None) -> None:
    """Write the reports of a sweep again, finished or not, from its records alone."""
    with mistakes_explained():
        parsed = load_stored(config, overrides)
        from sweeps.results.reporting import rewrite

        for domain, paths in rewrite(parsed).items():
            print(f"{domain}: {paths.html}")


def export(
    config: ConfigFile,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; must be new.")],
    overrides: Overrides = None,
) -> None:
    """Write the best configuration as a single run's YAML, and its model with a model card."""
    with mistakes_explained():
        parsed = load_stored(config, overrides)
        from sweeps.results.export import export as export_best

        for domain, found in export_best(parsed, folder).items():
            model = "its weights are gone" if found.model is None else str(found.model)
            print(f"{domain}: {found.config}\n{domain}: {model}")
