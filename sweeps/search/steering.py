"""Steer a search from outside its driver: add a point, fork a trial, stop a trial.

Each function leaves a request (see `sweeps.search.requests`) and returns a sentence that says what
comes next. The driver takes it at once if the sweep runs, and else when it is resumed.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from typing import Any

from optuna.trial import TrialState

from sweeps.finetune.checkpoint import step_name
from sweeps.search.attempt_records import FORK, KEY, REQUEST
from sweeps.search.requests import (
    Request,
    check_search,
    fork_request,
    latest,
    queue_request,
    requests_of,
    unseen,
)
from sweeps.search.trial_records import Records
from sweeps.storage.command_line import command_line
from sweeps.storage.errors import UserError, nearest
from sweeps.storage.mailbox import Mailbox
from sweeps.storage.object_store import as_user_error
from sweeps.storage.remote_sync import copy_within, files_below, living_driver
from sweeps.storage.trial_files import STATE_FILE

LOOKS = 3
"""How often to look for a checkpoint again if its trial has replaced it meanwhile."""


def queue_point(records: Records, domain: str, values: Mapping[str, Any]) -> str:
    """Ask for a trial at a point; the sampler draws the parameters that ``values`` leaves out.

    Raises:
        UserError: the point is outside the space, or equals one of the search's.
    """
    check_domain(records, domain)
    waiting = [one for one in pending(records, domain) if one.kind == "queue"]
    asked = queue_request(records.config, domain, records.trials(domain), values, waiting)
    return _post(records, asked)


def fork_trial(records: Records, domain: str, number: int, values: Mapping[str, Any]) -> str:
    """Ask for a trial that continues trial ``number`` from its latest checkpoint, with changes.

    The checkpoint is kept for the fork now, whatever becomes of the trial.

    Raises:
        UserError: there is no checkpoint, a value cannot change there, or there is this fork.
    """
    check_domain(records, domain)
    check_search(records.config)
    trials, place = records.trials(domain), records.place
    key = latest(domain, trials, number).user_attrs[KEY]
    for _ in range(LOOKS):
        step = _latest_step(records, domain, number, key)
        request = fork_request(records.config, domain, trials, number, step, values)
        target = place.fork_starts(domain, key) / step_name(step)
        if step in _steps(records, domain, key, starts=True):
            return _post(records, request)
        try:
            copy_within(place, place.checkpoints(domain, key) / target.name, target, STATE_FILE)
        except (FileNotFoundError, shutil.Error):  # the trial has a newer one
            continue
        return _post(records, request)
    raise UserError(f"trial {number} replaces its checkpoints too fast to copy one: try again")


def stop_trial(records: Records, domain: str, number: int) -> str:
    """Ask a running trial to stop at its next validation check; repeating it changes nothing.

    Raises:
        UserError: the trial does not run.
    """
    check_domain(records, domain)
    check_search(records.config)
    trial = latest(domain, records.trials(domain), number)
    if living_driver(records.place) is None:
        raise UserError(f"{records.config.name} is not running, so its trials cannot be stopped")
    if trial.state is not TrialState.RUNNING:
        states = (row.state for row in records.rows(domain) if row.number == number)
        state = next(states, "waiting")
        raise UserError(
            f"domain '{domain}': trial {number} is not running ({state.replace('_', ' ')}), so it "
            "cannot be stopped"
        )
    request = Request("stop", domain, trial=number)
    Mailbox(records.place).post(request.name(), request.text())
    return f"{domain}: trial {number} ends at its next validation check; the others continue"


def pending(records: Records, domain: str) -> list[Request]:
    """The requested points and forks of a domain that no driver has taken yet.

    Raises:
        UserError: the object store does not respond.
    """
    with as_user_error():
        found = requests_of(Mailbox(records.place).waiting(), domain)
    return unseen(found, records.trials(domain))


def requested(records: Records, domain: str) -> Counter[str]:
    """How many requested points ("queue") and forks ("fork") of a domain have not started.

    Raises:
        UserError: the object store does not respond.
    """
    waiting = (t.user_attrs for t in records.trials(domain) if t.state is TrialState.WAITING)
    kinds = Counter("fork" if FORK in attrs else "queue" for attrs in waiting if REQUEST in attrs)
    return kinds + Counter(request.kind for request in pending(records, domain))


def check_domain(records: Records, domain: str) -> None:
    """Raise a UserError unless the sweep has this domain."""
    if domain not in (known := [*records.config.domains]):
        raise UserError(f"no domain '{domain}' ({nearest(domain, known)})")


def _post(records: Records, request: Request) -> str:
    Mailbox(records.place).post(request.name(), request.text())
    what = "a point is queued"
    if request.lineage is not None:
        start = request.lineage
        what = f"a fork of trial {start.trial}, from its update {start.step}, is queued"
    if living_driver(records.place) is not None:
        return f"{request.domain}: {what}; the running sweep starts it when a slot is free"
    again = command_line("resume", records.place.folder)
    return f"{request.domain}: {what}. The sweep is not running; to run it: {again}"


def _steps(records: Records, domain: str, key: str, *, starts: bool = False) -> set[int]:
    """The updates after which a trial has a checkpoint; ``starts``: of those kept for forks."""
    place = records.place
    folder = place.fork_starts(domain, key) if starts else place.checkpoints(domain, key)
    found = [path.parts for path in files_below(place, folder)]
    names = [part[0] for part in found if part[1:] == (STATE_FILE,) and "." not in part[0]]
    return {int(name.removeprefix("step-")) for name in names}


def _latest_step(records: Records, domain: str, number: int, key: str) -> int:
    """The latest checkpoint of a trial, its own or one kept for a fork.

    Raises:
        UserError: none is left; names the trials that have one.
    """
    found = _steps(records, domain, key) | _steps(records, domain, key, starts=True)
    if found:
        return max(found)
    others = [
        str(row.number)
        for row in records.rows(domain)
        if _steps(records, domain, row.key) | _steps(records, domain, row.key, starts=True)
    ]
    raise UserError(
        f"domain '{domain}': trial {number} has no checkpoint: it has not reached its first "
        "validation check, or it has ended and its checkpoint was removed; trials with a "
        f"checkpoint: {', '.join(others) or 'none'}"
    )
