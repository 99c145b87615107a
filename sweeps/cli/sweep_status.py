"""The status of a sweep, read from its records: plain values to print or to parse."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, final

from optuna.trial import FrozenTrial, TrialState

from sweeps.config.failure_kinds import cause
from sweeps.config.sweep_config import SweepConfig
from sweeps.execution.driver_log import latest_trouble
from sweeps.execution.progress import point_text, recorded_point, time_text
from sweeps.report.trial_row import ScoreLabel, TrialRow, score_text, violations
from sweeps.search.attempt_records import INCOMPLETE, INTERRUPTED
from sweeps.search.steering import requested
from sweeps.search.trial_counts import workload
from sweeps.search.trial_records import Records, best_row, label_of
from sweeps.storage.remote_sync import fetcher, living_driver
from sweeps.storage.run_lock import Driver
from sweeps.storage.study_paths import alone, saved_links
from sweeps.storage.trial_files import (
    EVENTS_FILE,
    FAILURE_FILE,
    RUN_FILE,
    last_lines,
    parse_event,
)

SHOWN_EVENTS = 6
_TAIL_BYTES = 8192


@final
@dataclass(frozen=True)
class Running:
    """A running trial: update `step` of `steps`, the `score` of its last check, and the seconds
    since it started."""

    number: int
    point: str
    step: int
    steps: int
    score: float | None
    seconds: float


@final
@dataclass(frozen=True)
class Failure:
    """A failed trial: its cause in one line, its log, and the command that runs it alone."""

    domain: str
    number: int
    kind: str
    cause: str
    log: str | None
    command: str | None


@final
@dataclass(frozen=True)
class Event:
    """A trial's start or end; `time` is local to the machine that wrote it."""

    time: str
    text: str


@final
@dataclass(frozen=True)
class DomainStatus:
    """One domain's study. `states` counts trials by state, `best` is by validation score.
    `violations`: a sentence if finished trials violate constraints; else empty. `best_score`: as
    text, with that of fresh seeds. `requested`: queued points and forks that have not started.
    `links`: pages of MLflow by label, as in the result of `run`."""

    domain: str
    label: ScoreLabel
    total: int
    done: int
    states: dict[str, int]
    running: tuple[Running, ...]
    best: TrialRow | None
    report: str | None
    violations: str = ""
    best_score: str = ""
    requested: int = 0
    links: dict[str, str] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class SweepStatus:
    """A sweep. `per_hour` and `seconds_left` cover the live driver's session, None without one."""

    name: str
    folder: str
    state: Literal["starting", "running", "complete", "stopped"]
    driver: Driver | None
    domains: tuple[DomainStatus, ...] = ()
    per_hour: float | None = None
    seconds_left: float | None = None
    events: tuple[Event, ...] = ()
    failures: tuple[Failure, ...] = ()
    latest_trouble: str = ""
    """The last warning or error in the driver's log, its time first."""


def status(records: Records) -> SweepStatus:
    """The status of the sweep now."""
    records.look_again()
    driver = living_driver(records.place)
    domains = tuple(_domain(records, name, driver is not None) for name in records.config.domains)
    left = sum(max(0, domain.total - domain.done) for domain in domains)
    complete = not left and all(domain.report is not None for domain in domains)
    pace = _per_second(records, driver)
    return SweepStatus(
        name=records.config.name,
        folder=str(records.place.folder),
        state="running" if driver else "complete" if complete else "stopped",
        driver=driver,
        domains=domains,
        per_hour=None if pace is None else 3600 * pace,
        seconds_left=None if pace is None else left / pace,
        events=_events(records),
        failures=tuple(f for name in records.config.domains for f in _failures(records, name)),
        latest_trouble=latest_trouble(records.place.driver_log()),
    )


def _domain(records: Records, domain: str, driven: bool) -> DomainStatus:
    rows = tuple(row for row in records.rows(domain) if not row.origin)
    asked = requested(records, domain)
    work = workload(records.config, domain, rows, asked)
    states: dict[str, int] = {}
    for row in rows:
        # Without a live driver nothing runs: a killed one left its trials recorded as running.
        state = "interrupted" if row.state == "running" and not driven else row.state
        states[state] = states.get(state, 0) + 1
    best, label = best_row(rows), label_of(records.config, domain)
    page = records.place.study(domain) / "report" / "report.html"
    return DomainStatus(
        domain=domain,
        label=label,
        total=work.total,
        done=work.done,
        states=states,
        running=_running(records, domain) if driven else (),
        best=best,
        report=str(page) if page.is_file() else None,
        violations=violations(rows),
        best_score="" if best is None else score_text(label, best, rows),
        requested=asked.total(),
        links=saved_links(records.place.study(domain)),
    )


def _running(records: Records, domain: str) -> tuple[Running, ...]:
    now, found = datetime.now(), []
    rows = {row.key: row for row in records.rows(domain)}
    fetch = fetcher(records.place)
    for trial in records.trials(domain):
        key = trial.user_attrs.get("key")
        is_over = trial.state is not TrialState.RUNNING or INCOMPLETE in trial.user_attrs
        if is_over or key not in rows:
            continue
        folder = records.place.trial(domain, key)
        began = trial.datetime_start or now
        with suppress(OSError):  # then the step of the previous refresh is used
            fetch(folder / EVENTS_FILE)
        found.append(
            Running(
                number=trial.user_attrs["number"],
                point=point_text(recorded_point(rows[key])),
                step=_last_step(folder / EVENTS_FILE),
                steps=_steps(records.config, domain, rows[key]),
                score=rows[key].score,
                seconds=(now - began).total_seconds(),
            )
        )
    return tuple(found)


def _steps(config: SweepConfig, domain: str, row: TrialRow) -> int:
    """Updates of a whole trial; masking does not change the number."""
    return config.trial(domain, row.point()).steps(config.resources.workers)


def _last_step(events: Path) -> int:
    """The last update in a trial's event log; 0 before the first."""
    found = map(parse_event, reversed(last_lines(events, _TAIL_BYTES)))
    return next((event["step"] for event in found if event and event["kind"] == "step"), 0)


def _per_second(records: Records, driver: Driver | None) -> float | None:
    """Trials ended per second since the live driver started; None before the first end."""
    if driver is None:
        return None
    began = datetime.strptime(driver.started, "%Y-%m-%d %H:%M:%S")
    ended = [
        trial
        for domain in records.config.domains
        for trial in records.trials(domain)
        if trial.datetime_complete is not None
        and trial.datetime_complete >= began
        and INTERRUPTED not in trial.user_attrs
    ]
    seconds = max(1.0, time.time() - began.timestamp())
    return len(ended) / seconds if ended else None


def _events(records: Records) -> tuple[Event, ...]:
    """The most recent starts and ends of trials."""
    found: list[tuple[datetime, str]] = []
    for domain in records.config.domains:
        for trial in records.trials(domain):
            if "number" not in trial.user_attrs:
                continue
            name = f"{domain} trial {trial.user_attrs['number']}"
            if trial.datetime_start is not None:
                found.append((trial.datetime_start, f"{name} started"))
            if trial.datetime_complete is not None:
                found.append((trial.datetime_complete, f"{name} {_ending(trial)}"))
    found.sort()
    last = found[-SHOWN_EVENTS:]
    return tuple(Event(f"{moment:%Y-%m-%d %H:%M:%S}", text) for moment, text in last)


def _ending(trial: FrozenTrial) -> str:
    if INTERRUPTED in trial.user_attrs:
        return "was interrupted"
    outcome: dict[str, Any] = trial.user_attrs.get("outcome", {})
    words = {"stopped_early": "was stopped early", "stopped_by_user": "was stopped by the user"}
    words |= {"finished": "finished", "failed": "failed"}
    seconds = outcome.get("seconds", 0.0)
    return f"{words.get(outcome.get('state', ''), 'ended')} after {time_text(seconds)}"


def _failures(records: Records, domain: str) -> list[Failure]:
    outcomes = {t.user_attrs.get("key"): t.user_attrs for t in records.trials(domain)}
    return [
        _failure(records, domain, row, outcomes[row.key].get("outcome", {}))
        for row in records.rows(domain)
        if row.state == "failed" and not row.origin
    ]


def _failure(records: Records, domain: str, row: TrialRow, outcome: dict[str, Any]) -> Failure:
    folder = records.place.trial(domain, row.key)
    log, run = folder / FAILURE_FILE, folder / RUN_FILE
    return Failure(
        domain=domain,
        number=row.number,
        kind=str(outcome.get("kind", "error")),
        cause=cause(str(outcome.get("failure", ""))) or "no cause recorded",
        log=str(log) if log.is_file() else None,
        command=alone(folder) if run.is_file() else None,
    )
