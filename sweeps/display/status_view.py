"""How a sweep's status looks on a screen."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from sweeps.display.progress import POINT_LEGEND, point_text, recorded_point, time_text
from sweeps.display.status import DomainStatus, Failure, Running, SweepStatus

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def view(status: SweepStatus) -> list[RenderableType]:
    """What is shown, from top to bottom."""
    return [*body(status), *_next_steps(status)]


def body(status: SweepStatus) -> list[RenderableType]:
    """All of it but what to type next."""
    lines: list[RenderableType] = [headline(status), *([table(status)] if status.domains else [])]
    for domain in status.domains:
        lines += [_running(domain, run) for run in domain.running]
    if status.happenings:
        lines.append("last events")
        lines += [f"  {happening.time}  {happening.text}" for happening in status.happenings]
    for failure in status.failures:
        lines += _failure(failure)
    reports = [f"  {d.domain}: {d.report}" for d in status.domains if d.report]
    return [*lines, *(["reports", *reports] if reports else [])]


def headline(status: SweepStatus) -> str:
    """Whether it runs, who runs it, and when it will be done."""
    if status.state == "complete":
        return f"{status.name} is complete."
    if not status.drivers:
        return f"{status.name} does not run: it was stopped, or ended before all was done."
    who = "; ".join(str(driver) for driver in status.drivers)
    if all(domain.done >= domain.total for domain in status.domains):
        return f"{status.name} runs, by {who}. All trials are done; the report is being written."
    if status.per_hour is None:
        return f"{status.name} runs, by {who}. No trial has ended since then."
    left = time_text(status.seconds_left)
    return f"{status.name} runs, by {who}. {status.per_hour:.3g} trials per hour, {left} left."


def table(status: SweepStatus) -> Table:
    """One row for each domain."""
    from rich.table import Table

    result = Table()
    for column in ("domain", "done", "running", "failed", "best score"):
        result.add_column(column)
    result.add_column("at", no_wrap=True)
    for domain in status.domains:
        best = domain.best
        result.add_row(
            domain.domain,
            f"{domain.done} of {domain.total}",
            str(len(domain.running)),
            str(domain.states.get("failed", 0)),
            "" if best is None else domain.label.number(best.score or 0.0),
            "" if best is None else point_text(recorded_point(best)),
        )
    if any(domain.best is not None for domain in status.domains):
        result.caption = f"scores on validation items; {POINT_LEGEND}"
    return result


def _running(domain: DomainStatus, run: Running) -> str:
    score = "" if run.score is None else f", score {domain.label.number(run.score)} so far"
    return (
        f"running: {domain.domain} trial {run.number}, {run.point}, update {run.step} of "
        f"{run.steps}{score}, for {time_text(run.seconds)}"
    )


def _failure(failure: Failure) -> list[RenderableType]:
    name = f"failed: {failure.domain} trial {failure.number}"
    lines: list[RenderableType] = [f"{name} ({failure.kind}), {failure.cause}"]
    lines += [f"  its log: {failure.log}"] if failure.log else []
    return [*lines, *([f"  run it alone: {failure.command}"] if failure.command else [])]


def way_on(folder: str) -> str:
    """What to type to go on with what was stopped."""
    return f"to go on: python -m sweeps resume {shlex.quote(folder)}"


def _next_steps(status: SweepStatus) -> list[RenderableType]:
    lines: list[RenderableType] = []
    if status.state == "stopped":
        lines.append(way_on(status.folder))
    if status.failures and not status.drivers:
        lines.append(
            "to try the failed trials again: python -m sweeps retry "
            f"{shlex.quote(status.folder)} --failed"
        )
    return lines
