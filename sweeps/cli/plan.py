"""``plan``: show what a sweep will run and cost, before it starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import typer

from sweeps.cli.answer import Answer, refuse
from sweeps.cli.arguments import ConfigFile, Overrides, command_line, load
from sweeps.config.sweep_config import SweepConfig, resolve_paths
from sweeps.execution import planning
from sweeps.execution.disk_need import GIB
from sweeps.execution.pace import (
    Pace,
    count_items,
    given_pace,
    measured_pace,
    recorded_pace,
    shortest_run,
)
from sweeps.execution.planning import (
    DomainPlan,
    PaceOf,
    SweepPlan,
    joined_cluster,
    this_machine,
)
from sweeps.execution.progress import time_text
from sweeps.report.trial_row import TrialRow
from sweeps.search.trial_records import recorded_rows
from sweeps.storage.cluster_address import cluster_address

SHOWN_SIZES = 12
UNKNOWN = "unknown: no safetensors headers could be read, here or on the hub"


def view(plan: SweepPlan) -> Iterator[str]:
    """The lines to print before the command that runs the sweep."""
    yield f"{plan.name}: {plan.kind}, {_count(len(plan.domains), 'domain')}"
    yield f"where: {plan.machine.text}"
    at_once = _count(plan.machine.concurrency, "trial")
    yield f"each trial: {_count(plan.devices_per_trial, plan.device)}; {at_once} at a time"
    for domain in plan.domains:
        yield from _domain(domain)
    yield from _cost(plan)
    yield _memory(plan)
    yield _disk(plan)
    yield "to write the report again:" if _is_done(plan) else "to run it:"


def _domain(plan: DomainPlan) -> Iterator[str]:
    done = f", {plan.done} already done" if plan.done else ""
    yield f"{plan.domain}: {_count(plan.total, 'trial')}{done}, {plan.left} to run"
    if plan.shortfall:
        yield f"  {plan.shortfall}"
    for name, text in plan.parameters.items():
        yield f"  {name}: {text}"
    for sizes, (updates, examples) in [*plan.updates.items()][:SHOWN_SIZES]:
        counted = f"{updates} update{'' if updates == 1 else 's'}"
        yield f"  at {sizes}: {counted} of {examples} examples"
    if len(plan.updates) > SHOWN_SIZES:
        yield f"  and {len(plan.updates) - SHOWN_SIZES} more sizes"
    if (pace := plan.pace) is not None:
        evaluation = "unknown" if pace.evaluation is None else time_text(pace.evaluation)
        yield (
            f"  a trial: {time_text(pace.training)} of training, {evaluation} of validation "
            f"(from {pace.source})"
        )


def _is_done(plan: SweepPlan) -> bool:
    return plan.kind != "efficiency" and not any(domain.left for domain in plan.domains)


def _cost(plan: SweepPlan) -> Iterator[str]:
    if _is_done(plan):
        yield "time: none, all trials are done"
        return
    if plan.hours is None:
        yield (
            "time: unknown until a trial of each domain has finished; give --seconds-per-step "
            "or --samples-per-second, or measure a few updates on this machine with --measure"
        )
        return
    most = "at most (trials may be stopped early): " if plan.stops_early else ""
    hours = plan.evaluation_device_hours
    evaluation = "unknown" if hours is None else f"{hours:.3g}"
    yield f"time: {most}{time_text(3600 * plan.hours)}, without the test items at the end"
    yield (
        f"{plan.device}-hours: {plan.training_device_hours or 0.0:.3g} of training, "
        f"{evaluation} of validation"
    )
    if plan.money is not None:
        yield f"money: {plan.money:.2f} at {plan.price:g} per {plan.device}-hour"


def _memory(plan: SweepPlan) -> str:
    if plan.memory is None:
        return f"memory: {UNKNOWN}"
    host = plan.workers * plan.memory.host / GIB
    return (
        f"memory: at least {plan.memory} on each worker's {plan.device}; "
        f"{host:.2f} GiB of host memory if all workers share a machine"
    )


def _disk(plan: SweepPlan) -> str:
    here = plan.disk_free
    free = "in an object store" if here is None else f"{here / GIB:.2f} GiB free"
    if plan.disk is None:
        return f"disk: {UNKNOWN}; {free}"
    return (
        f"disk: up to {plan.disk.total / GIB:.2f} GiB ({plan.disk.checkpoints / GIB:.2f} for "
        f"checkpoints, {plan.disk.models / GIB:.2f} for models); {free}"
    )


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    seconds_per_step: Annotated[
        float | None,
        typer.Option(
            min=0, help="Seconds per update at the smallest accumulation interval, if known."
        ),
    ] = None,
    samples_per_second: Annotated[
        float | None,
        typer.Option(min=1e-9, help="Training examples per second of a trial, if known."),
    ] = None,
    seconds_per_check: Annotated[
        float | None, typer.Option(min=0, help="Seconds of the last validation check.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure a few updates of one trial on this machine.")
    ] = False,
    price: Annotated[
        float | None,
        typer.Option(min=0, help="Price of a GPU-hour, or of a CPU-hour if trials use no GPU."),
    ] = None,
) -> Answer[SweepPlan]:
    """Show what a sweep will run, where, for how long and at what price, without starting it.

    Times come from finished trials of the same sweep, unless you give or measure them. If
    RAY_ADDRESS names a cluster, the plan uses the resources of that cluster.
    """
    given = [seconds_per_step is not None, samples_per_second is not None]
    if measure + sum(given) > 1:
        refuse("give one of --measure, --seconds-per-step and --samples-per-second")
    if seconds_per_check is not None and not any(given):
        refuse("--seconds-per-check requires --seconds-per-step or --samples-per-second")
    parsed = load(config, overrides)
    try:
        parsed = resolve_paths(parsed)
        pace = _pace_of(parsed, seconds_per_step, samples_per_second, seconds_per_check, measure)
        found = _planned(parsed, pace, price)
    except ValueError as error:  # from lower layers: what is wrong with the model or the data
        refuse(str(error))
    return Answer(found, view(found), (command_line("run", config, overrides),))


def _planned(config: SweepConfig, pace: PaceOf, price: float | None) -> SweepPlan:
    machine = (joined_cluster if cluster_address() else this_machine)(config)
    if price is None:
        price = config.budget.price_per_gpu_hour
    found = planning.plan(config, recorded_rows(config), machine, pace, price)
    left = [domain.left for domain in found.domains]
    most = sum(left) if config.resources.domains == "side_by_side" else max(left)
    at_once = min(machine.concurrency, max(1, most))
    return replace(found, machine=replace(machine, concurrency=at_once))


def _pace_of(
    config: SweepConfig,
    step: float | None,
    rate: float | None,
    check: float | None,
    measure: bool,
) -> PaceOf:
    def pace_of(domain: str, rows: tuple[TrialRow, ...]) -> Pace | None:
        batch = shortest_run(config, domain).effective_batch(config.resources.workers)
        seconds = step if rate is None else batch / rate
        if seconds is not None:
            return given_pace(config, domain, seconds, check, count_items(config, domain))
        if measure:
            return measured_pace(config, domain, count_items(config, domain))
        return recorded_pace(rows)

    return pace_of
