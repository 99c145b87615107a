"""``plan``: show what a sweep will run and cost, before it starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Annotated

import typer

from sweeps.cli.answer import Answer, Problem, refuse
from sweeps.cli.arguments import ConfigFile, Overrides, load, paper_remark
from sweeps.config.load import is_paper
from sweeps.config.sweep_config import SweepConfig, paths_for, resolve_paths
from sweeps.execution import planning
from sweeps.execution.disk_need import GIB, WRITE_RATE, CheckpointCost
from sweeps.execution.planning import (
    DomainPlan,
    Machine,
    PaceOf,
    PaperPlan,
    SweepPlan,
    joined_cluster,
    this_machine,
)
from sweeps.execution.progress import time_text
from sweeps.execution.trial_time import (
    Pace,
    count_items,
    given_pace,
    measured_pace,
    recorded_pace,
    shortest_run,
)
from sweeps.report.trial_row import TrialRow
from sweeps.search.steering import requested
from sweeps.search.trial_records import Records, space_previews
from sweeps.storage.address import cluster_address
from sweeps.storage.command_line import command_line

SHOWN_SIZES = 12
NO_TIME = (
    "time: unknown until a trial of each domain has finished; give --seconds-per-step or "
    "--samples-per-second, or measure a few updates on this machine with --measure"
)
UNKNOWN = "unknown: no safetensors headers could be read, here or on the hub"


def view(plan: SweepPlan) -> Iterator[str]:
    """The lines to print before the command that runs the sweep."""
    yield f"{plan.name}: {plan.kind}, {_count(len(plan.domains), 'domain')}"
    yield f"where: {plan.machine.text}"
    at_once = _count(plan.machine.concurrency, "trial")
    yield f"each trial: {_count(plan.devices_per_trial, plan.device)}; {at_once} at a time"
    for domain in plan.domains:
        yield from _domain(domain)
        yield from _checkpoints(plan, domain.checkpoints)
    yield from _cost(plan)
    yield _memory(plan)
    yield _disk(plan)
    if not plan.refused:
        yield "to write the report again:" if _is_done(plan) else "to run it:"


def paper_view(plan: PaperPlan) -> Iterator[str]:
    """The lines to print of a paper, before the command that runs it."""
    first = plan.studies[0]
    yield f"{plan.name}: a paper of {_count(len(plan.studies), 'study', 'studies')}"
    yield f"where: {first.machine.text}"
    for study in plan.studies:
        left = sum(domain.to_run() for domain in study.domains)
        shared = sum(domain.shared for domain in study.domains)
        hours = "unknown" if study.hours is None else time_text(3600 * study.hours)
        taken = f", {shared} taken from an earlier study" if shared else ""
        yield f"{study.kind}: {_count(left, 'trial')} to run{taken}; {hours}"
    for domain in first.domains:
        yield from (f"{domain.domain}, {line.strip()}" for line in _pace(domain))
    yield (
        f"in all: {_count(plan.total, 'trial')}, {plan.done} already done, {plan.left} left, of "
        f"which {plan.left - plan.shared} to run"
    )
    if plan.assumed:
        yield f"may change with the results before them: {', '.join(plan.assumed)}"
    yield NO_TIME if plan.hours is None else _time(plan.hours, first.start_seconds)
    if plan.money is not None:
        yield _money(plan.money, first)
    yield _memory(max(plan.studies, key=lambda each: each.memory.total if each.memory else 0))
    if not plan.refused:
        yield "to run it:"


def _domain(plan: DomainPlan) -> Iterator[str]:
    done = f", {plan.done} already done" if plan.done else ""
    queued = f" ({plan.requested} queued by hand)" if plan.requested else ""
    yield f"{plan.domain}: {_count(plan.total, 'trial')}{done}, {plan.left} to run{queued}"
    yield from (f"  {said}" for said in (plan.changed, plan.shortfall) if said)
    for name, text in plan.parameters.items():
        yield f"  {name}: {text}"
    for sizes, (updates, examples) in [*plan.updates.items()][:SHOWN_SIZES]:
        counted = f"{updates} update{'' if updates == 1 else 's'}"
        yield f"  at {sizes}: {counted} of {examples} examples"
    if len(plan.updates) > SHOWN_SIZES:
        yield f"  and {len(plan.updates) - SHOWN_SIZES} more sizes"
    yield from _pace(plan)


def _pace(plan: DomainPlan) -> Iterator[str]:
    if (pace := plan.pace) is not None:
        setup = f"{time_text(pace.setup)} of setup, " if pace.setup else ""
        evaluation = "unknown" if pace.evaluation is None else time_text(pace.evaluation)
        yield (
            f"  a trial: {setup}{time_text(pace.training)} of training, {evaluation} of "
            f"validation (from {pace.source})"
        )


def _checkpoints(plan: SweepPlan, cost: CheckpointCost | None) -> Iterator[str]:
    if cost is None or not cost.count:
        return
    if cost.waits is None:
        waits = "training waits only if the next one is due before the last is written"
    elif not cost.waits:
        waits = "training does not wait"
    else:
        hours = cost.waits / 3600 * plan.devices_per_trial
        money = "" if plan.price is None else f", {hours * plan.price:.2f} of money"
        waits = f"a trial waits {time_text(cost.waits)}, {hours:.3g} {plan.device}-hours{money}"
    each = f"{cost.size / GIB:.2f} GiB and {time_text(cost.seconds)} to write"
    yield f"  checkpoints: {cost.count} of {each} each; {waits}"


def _is_done(plan: SweepPlan) -> bool:
    return plan.kind != "efficiency" and not any(domain.left for domain in plan.domains)


def _cost(plan: SweepPlan) -> Iterator[str]:
    if _is_done(plan):
        yield "time: none, all trials are done"
        return
    if plan.hours is None:
        yield NO_TIME
        return
    most = "at most (trials may be stopped early): " if plan.stops_early else ""
    hours = plan.evaluation_device_hours
    evaluation = "unknown" if hours is None else f"{hours:.3g}"
    yield _time(plan.hours, plan.start_seconds, most)
    yield (
        f"{plan.device}-hours: {plan.training_device_hours or 0.0:.3g} of training, "
        f"{evaluation} of validation"
    )
    if plan.money is not None:
        yield _money(plan.money, plan)


def _time(hours: float, start_seconds: float, most: str = "") -> str:
    start = f", {time_text(start_seconds)} of it to start" if start_seconds else ""
    return f"time: {most}{time_text(3600 * hours)}{start}, without the test items at the end"


def _money(money: float, plan: SweepPlan) -> str:
    return f"money: {money:.2f} at {plan.price:g} per {plan.device}-hour"


def _memory(plan: SweepPlan) -> str:
    if plan.memory is None:
        return f"memory: {UNKNOWN}"
    host = plan.memory.on_machine(plan.workers) / GIB
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


def _count(number: float, noun: str, several: str = "") -> str:
    return f"{number:g} {noun if number == 1 else several or f'{noun}s'}"


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
    gpu_memory: Annotated[
        float | None,
        typer.Option(min=1e-3, help="GiB of each GPU: refuse trials that need more."),
    ] = None,
    write_rate: Annotated[
        float,
        typer.Option(min=1e-3, help="Megabytes per second at which checkpoints are written."),
    ] = WRITE_RATE,
    paper: Annotated[
        bool, typer.Option("--paper", help="Plan all studies of study.paper together.")
    ] = False,
) -> Answer[SweepPlan | PaperPlan]:
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
        gpu_bytes = None if gpu_memory is None else int(gpu_memory * GIB)
        if paper or is_paper(parsed):
            found: SweepPlan | PaperPlan = _paper(parsed, pace, price, gpu_bytes)
        else:
            found = _planned(parsed, pace, price, gpu_bytes, write_rate)
    except ValueError as error:  # from lower layers: what is wrong with the model or the data
        refuse(str(error))
    if isinstance(found, PaperPlan):
        return _answer(found, paper_view(found), command_line("paper", config, overrides))
    of_all = command_line("plan", config, [*(overrides or ()), "--paper"])
    lines = chain(paper_remark(config, parsed, of_all), view(found))
    return _answer(found, lines, command_line("run", config, overrides))


def _answer(
    found: SweepPlan | PaperPlan, shown: Iterator[str], following: str
) -> Answer[SweepPlan | PaperPlan]:
    if not found.refused:
        return Answer(found, shown, (following,))
    return Answer(found, shown, problem=Problem.of(f"it would be refused: {found.refused}", 2))


def _planned(
    config: SweepConfig,
    pace: PaceOf,
    price: float | None,
    gpu_bytes: int | None,
    write_rate: float,
) -> SweepPlan:
    machine = _machine(config, gpu_bytes)
    if price is None:
        price = config.budget.price_per_gpu_hour
    previews = space_previews(config)
    rows = {name: recorded for name, (recorded, _) in previews.items()}
    asked = dict[str, Counter[str]]()
    if paths_for(config).created_marker().is_file():
        records = Records(config)
        asked = {name: requested(records, name) for name in config.domains}
    found = planning.plan(
        config, rows, machine, pace, price, write_rate=write_rate, requested=asked
    )
    domains = tuple(replace(one, changed=previews[one.domain][1]) for one in found.domains)
    left = [domain.left for domain in found.domains]
    most = sum(left) if config.resources.domains == "side_by_side" else max(left)
    at_once = min(machine.concurrency, max(1, most))
    return replace(found, domains=domains, machine=replace(machine, concurrency=at_once))


def _machine(config: SweepConfig, gpu_bytes: int | None) -> Machine:
    machine = (joined_cluster if cluster_address() else this_machine)(config)
    return replace(machine, gpu_bytes=gpu_bytes)


def _paper(
    config: SweepConfig, pace: PaceOf, price: float | None, gpu_bytes: int | None
) -> PaperPlan:
    from sweeps.execution.paper import check  # imports Ray
    from sweeps.execution.paper_plan import paper_plan

    check(config)
    machine = _machine(config, gpu_bytes)
    return paper_plan(config, machine, pace, price or config.budget.price_per_gpu_hour)


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
