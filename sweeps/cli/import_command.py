"""``import``: let a search learn from the trials of another study."""

from __future__ import annotations

from typing import Annotated

import typer

from sweeps.cli.answer import Answer, Problem, refuse
from sweeps.cli.arguments import ConfigFile, Overrides, load, pairs
from sweeps.storage.errors import nearest


def import_trials(
    config: ConfigFile,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Another sweep's folder, or the file or address of an Optuna database.",
        ),
    ],
    overrides: Overrides = None,
    study: Annotated[
        str | None, typer.Option(help="The study in the database, if it has several.")
    ] = None,
    domain: Annotated[
        str | None, typer.Option(help="The domain that learns from it, if there are several.")
    ] = None,
    mapped: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="NAME=KEY",
            help="A parameter there and its key in the space, e.g. lr=learning_rate. Repeatable.",
        ),
    ] = None,
) -> Answer[list[str]]:
    """Add finished trials of another study for the sampler to learn from.

    The sweep must not be running. Imported trials are in the report under their own heading. They
    have no model, so they are never the best trial and never part of a comparison.
    """
    keys = pairs("--map", mapped, "NAME=KEY, for example lr=learning_rate")
    parsed = load(config, overrides)
    if parsed.study.kind != "search":
        refuse(f"a {parsed.study.kind} study has a fixed design: only a search imports trials")
    if domain is not None and domain not in parsed.domains:
        refuse(f"--domain {domain}: {nearest(domain, [*parsed.domains])}")
    from sweeps.execution import import_trials as imports

    domains = [*parsed.domains] if domain is None else [domain]
    if imports.is_database(source):
        if len(domains) > 1:
            refuse(f"a database has trials of one domain: expected --domain {domains[0]}")
        found = {domains[0]: imports.from_optuna(parsed, source, study, domains[0], keys)}
    elif study or keys:
        refuse(f"--study and --map require an Optuna database, but {source} is not one")
    else:
        found = imports.from_sweep(parsed, source, domains)
    said = list[str]()
    empty = ", ".join(imports.import_trials(parsed, found, said.append))
    why = f"domain {empty}: no trial of {source} was imported; each was skipped, as said above"
    return Answer(said, said, problem=Problem.of(why, 1) if empty else None)
