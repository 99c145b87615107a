"""``plan``: what a sweep will do and cost, before it does it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.commands.shared import (
    AsJson,
    ConfigFile,
    Overrides,
    command_line,
    load,
    mistakes_explained,
)

if TYPE_CHECKING:
    from sweeps.config import SweepConfig
    from sweeps.plans.planning import PaceOf, SweepPlan
    from sweeps.report.data import TrialRow


def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    seconds_per_step: Annotated[
        float | None,
        typer.Option(
            min=0, help="Seconds of one update at the smallest accumulation interval, if you know."
        ),
    ] = None,
    seconds_per_check: Annotated[
        float | None, typer.Option(min=0, help="Seconds of the last validation check.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure a few updates of one trial here.")
    ] = False,
    price: Annotated[
        float | None,
        typer.Option(min=0, help="Of one GPU for one hour; of one CPU where trials use no GPU."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What a sweep will run, where, for how long and at what price; nothing is trained for it.

    Times come from finished trials of the same sweep, unless you give or measure them. Where
    RAY_ADDRESS names a cluster, it is asked what it has.
    """
    with mistakes_explained():
        from sweeps.errors import UserError

        if measure and seconds_per_step is not None:
            raise UserError("either --measure or --seconds-per-step, not both")
        if seconds_per_check is not None and seconds_per_step is None:
            raise UserError("--seconds-per-check is missing its --seconds-per-step")
        parsed = load(config, overrides)
        try:
            found = _planned(parsed, seconds_per_step, seconds_per_check, measure, price)
        except ValueError as error:  # of the rooms below: what is wrong with model or data
            raise UserError(str(error)) from error
    if as_json:
        print(json.dumps(asdict(found), indent=1))
        return
    _print(found, command_line("run", config, overrides))


def _planned(
    config: SweepConfig,
    step: float | None,
    check: float | None,
    measure: bool,
    price: float | None,
) -> SweepPlan:
    from sweeps.config import resolve_paths
    from sweeps.plans.planning import joined_cluster, plan, this_machine
    from sweeps.search.records import recorded_rows
    from sweeps.settings.cluster_address import cluster_address

    config = resolve_paths(config)
    machine = (joined_cluster if cluster_address() else this_machine)(config)
    if price is None:
        price = config.budget.price_per_gpu_hour
    return plan(
        config, recorded_rows(config), machine, _pace_of(config, step, check, measure), price
    )


def _pace_of(
    config: SweepConfig, step: float | None, check: float | None, measure: bool
) -> PaceOf:
    from sweeps.plans.pace import Pace, count_items, given_pace, measured_pace, recorded_pace

    def pace_of(domain: str, rows: tuple[TrialRow, ...]) -> Pace | None:
        if step is not None:
            return given_pace(config, domain, step, check, count_items(config, domain))
        if measure:
            return measured_pace(config, domain, count_items(config, domain))
        return recorded_pace(rows)

    return pace_of


def _print(found: SweepPlan, run: str) -> None:
    from rich.console import Console

    from sweeps.plans.plan_view import view

    Console(soft_wrap=True, highlight=False, markup=False).print(*view(found, run), sep="\n")
