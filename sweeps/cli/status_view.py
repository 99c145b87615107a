"""Render the status of a sweep, or of a paper, whose studies are sweeps, as lines and tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from rich.console import RenderableType
from rich.table import Table

from sweeps.cli.sweep_status import DomainStatus, Failure, Running, SweepStatus, status
from sweeps.config.load import load_config, report_folder, study_name, study_paths
from sweeps.config.study_config import Kind
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.execution.progress import (
    POINT_LEGEND,
    left_text,
    point_text,
    recorded_point,
    time_text,
)
from sweeps.search.trial_records import Records
from sweeps.storage.command_line import command_line
from sweeps.storage.remote_sync import living_driver, refresh
from sweeps.storage.run_lock import Driver
from sweeps.storage.study_paths import by_name, ways_to


def view(status: SweepStatus) -> list[RenderableType]:
    """The lines and tables to print, from top to bottom, before the commands of `ways_on`."""
    return [*body(status), *_purposes(status)]


def body(status: SweepStatus) -> list[RenderableType]:
    """Everything except the commands to type next."""
    lines: list[RenderableType] = [headline(status), *([table(status)] if status.domains else [])]
    for domain in status.domains:
        if domain.best is not None:
            point = point_text(recorded_point(domain.best))
            lines.append(f"best: {domain.domain} trial {domain.best.number}, {point}")
        lines += [_running(domain, run) for run in domain.running]
        lines += [f"{domain.domain}: {domain.violations}"] if domain.violations else []
        if domain.requested:
            lines.append(f"{domain.domain}: queued by hand and not started: {domain.requested}")
    if status.events:
        lines.append("last events")
        lines += [f"  {happening.time}  {happening.text}" for happening in status.events]
    if status.latest_trouble:
        lines.append(f"latest warning or error: {status.latest_trouble}")
        lines.append(f"  full log: {status.folder}/driver.log")
    for failure in status.failures:
        lines += _failure(failure)
    reports = [f"  {d.domain}: {d.report}" for d in status.domains if d.report]
    lines += ["reports", *reports] if reports else []
    links = by_name({d.domain: d.links for d in status.domains})
    return [*lines, *(f"{name}: {way}" for name, way in ways_to(links, status.folder).items())]


def headline(status: SweepStatus) -> str:
    """Whether the sweep is running, who runs it, and the time left."""
    if status.state == "complete":
        return f"{status.name} is complete."
    if status.driver is None:
        when = "it was stopped or ended early" if status.domains else "no trial has started"
        return f"{status.name} is not running: {when}."
    who = status.driver
    if status.state == "starting":
        return f"{status.name} is starting ({who})."
    if all(domain.done >= domain.total for domain in status.domains):
        return f"{status.name} is running ({who}). All trials are done; writing the report."
    if status.per_hour is None:
        return f"{status.name} is running ({who}). No trial has ended since then."
    pace = f"{status.per_hour:.3g} trials per hour{left_text(status.seconds_left)}"
    return f"{status.name} is running ({who}). {pace}."


def table(status: SweepStatus) -> Table:
    """One row per domain."""
    result = Table("domain", "done", "running", "failed", "best score")
    for domain in status.domains:
        result.add_row(
            domain.domain,
            f"{domain.done} of {domain.total}",
            str(len(domain.running)),
            str(domain.states.get("failed", 0)),
            domain.best_score,
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
    lines += [f"  log: {failure.log}"] if failure.log else []
    return [*lines, *([f"  to run it alone: {failure.command}"] if failure.command else [])]


def ways_on(status: SweepStatus | PaperStatus) -> dict[str, str]:
    """The commands that continue a stopped sweep or paper and retry failed trials, by purpose."""
    ways = {}
    if status.state == "stopped":
        ways["to continue"] = command_line("resume", status.folder)
    if isinstance(status, SweepStatus) and status.failures and not status.driver:
        ways["to retry the failed trials"] = command_line("retry", status.folder, ["--failed"])
    return ways


def _purposes(status: SweepStatus | PaperStatus) -> list[RenderableType]:
    """The line above the commands."""
    ways = ways_on(status)
    return [f"{', '.join(ways)}:"] if ways else []


@final
@dataclass(frozen=True)
class PaperStatus:
    """A paper. `studies` have started, those named in `to_come` have not."""

    name: str
    folder: str
    state: Literal["running", "complete", "stopped"]
    driver: Driver | None
    studies: tuple[SweepStatus, ...]
    to_come: tuple[str, ...]
    report: str | None


def paper_status(config: SweepConfig) -> PaperStatus:
    """The status of the paper now."""
    folder, page = paths_for(config).folder, report_folder(config) / "report.html"
    for place in (paths_for(config), *(study_paths(config, kind) for kind in config.study.paper)):
        refresh(place)
    driver = living_driver(paths_for(config))
    begun = [kind for kind in config.study.paper if _is_on_record(config, kind)]
    places = [study_paths(config, kind).folder for kind in begun]
    studies = tuple(status(Records(load_config(place))) for place in places)
    to_come = tuple(study_name(config, k) for k in config.study.paper if k not in begun)
    is_over = not to_come and page.is_file() and {one.state for one in studies} == {"complete"}
    return PaperStatus(
        name=config.name,
        folder=str(folder),
        state="running" if driver else "complete" if is_over else "stopped",
        driver=driver,
        studies=studies,
        to_come=to_come,
        report=str(page) if page.is_file() else None,
    )


def paper_view(found: PaperStatus) -> list[RenderableType]:
    """The lines and tables to print, from top to bottom."""
    lines: list[RenderableType] = [_headline(found)]
    for one in found.studies:
        lines += ["", *body(one)]
    if found.to_come:
        lines += ["", f"not started yet: {', '.join(found.to_come)}"]
    if found.report:
        lines += ["", f"report on all studies: {found.report}"]
    return [*lines, *_purposes(found)]


def _headline(found: PaperStatus) -> str:
    if found.driver:
        return f"The paper {found.name} is running ({found.driver})."
    said = "is complete" if found.state == "complete" else "is not running"
    return f"The paper {found.name} {said}."


def _is_on_record(config: SweepConfig, kind: Kind) -> bool:
    place = study_paths(config, kind)
    return place.config_file().is_file() and place.created_marker().is_file()
