"""How a plan looks on a screen."""

from __future__ import annotations

from collections.abc import Iterator

from sweeps.display.progress import time_text
from sweeps.plans.disk_need import GIB
from sweeps.plans.planning import DomainPlan, SweepPlan


def view(plan: SweepPlan, run: str) -> list[str]:
    """What is shown, line by line; ``run``: the command that does it."""
    title = "its report again:" if _is_done(plan) else "run it:"
    return [*_lines(plan), title, f"  {run}"]


def _lines(plan: SweepPlan) -> Iterator[str]:
    yield f"{plan.name}: {plan.kind}, {_count(len(plan.domains), 'domain')}"
    yield f"where: {plan.machine.text}"
    at_once = _count(plan.machine.concurrency, "trial")
    yield f"each trial: {_count(plan.devices_per_trial, plan.device)}; {at_once} at a time"
    for domain in plan.domains:
        yield from _domain(domain)
    yield from _cost(plan)
    yield from _disk(plan)


def _domain(plan: DomainPlan) -> Iterator[str]:
    done = f", {plan.done} of them done already" if plan.done else ""
    yield f"{plan.domain}: {_count(plan.total, 'trial')}{done}, {plan.left} to run"
    if plan.shortfall:
        yield f"  {plan.shortfall}"
    for name, text in plan.parameters.items():
        yield f"  {name}: {text}"
    for interval, updates in plan.updates.items():
        yield (
            f"  at accumulation interval {interval}: {updates} updates of "
            f"{plan.examples // updates} examples"
        )
    if plan.pace is not None:
        evaluation = "unknown"
        if plan.pace.evaluation is not None:
            evaluation = time_text(plan.pace.evaluation)
        yield (
            f"  a trial: {time_text(plan.pace.training)} of training, {evaluation} of validation "
            f"(from {plan.pace.source})"
        )


def _is_done(plan: SweepPlan) -> bool:
    return plan.kind != "efficiency" and not any(domain.left for domain in plan.domains)


def _cost(plan: SweepPlan) -> Iterator[str]:
    if _is_done(plan):
        yield "time: none, every trial is done"
        return
    if plan.hours is None:
        yield (
            "time: not known before a trial of each domain has finished; give "
            "--seconds-per-step, or measure a few updates here with --measure"
        )
        return
    most = "at most, since trials may be stopped early: " if plan.stops_early else ""
    evaluation = "unknown"
    if plan.evaluation_device_hours is not None:
        evaluation = _hours(plan.evaluation_device_hours)
    yield f"time: {most}{time_text(3600 * plan.hours)}, without the test items at the end"
    yield (
        f"{plan.device}-hours: {_hours(plan.training_device_hours or 0.0)} of training, "
        f"{evaluation} of validation"
    )
    if plan.money is not None:
        yield f"money: {plan.money:.2f} at {plan.price:g} per {plan.device}-hour"


def _disk(plan: SweepPlan) -> Iterator[str]:
    free = "in an object store"
    if plan.disk_free is not None:
        free = f"{plan.disk_free / GIB:.2f} GiB are free"
    if plan.disk is None:
        yield f"disk: unknown until the model is here; {free}"
        return
    yield (
        f"disk: up to {plan.disk.total / GIB:.2f} GiB ({plan.disk.checkpoints / GIB:.2f} for "
        f"checkpoints, {plan.disk.models / GIB:.2f} for models); {free}"
    )


def _hours(hours: float) -> str:
    return f"{hours:.3g}"


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"
