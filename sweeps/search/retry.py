"""Queue failed trials again, as further attempts with the same number and key.

The command `retry` does it, and a session that follows a failure for which its study stopped. A
running sweep retries lost workers by itself: `execution.worker_groups` decides by the kind of
failure (`config.failure_kinds`), `execution.job_queue` counts attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from sweeps.search.attempt_records import (
    INCOMPLETE,
    KEY,
    LASTING,
    NUMBER,
    RETRY_OF,
    finished_trials,
    point_of,
)
from sweeps.search.point_seeds import reopen
from sweeps.search.trial_records import Records
from sweeps.storage.errors import UserError
from sweeps.storage.remote_sync import Remove, living_driver, remove, send_database
from sweeps.storage.run_lock import gate
from sweeps.storage.trial_files import FAILURE_FILE, RESULT_FILE, SENT_FILE

FORGOTTEN = (RESULT_FILE, FAILURE_FILE, SENT_FILE)


def queue_failed(records: Records, kinds: Collection[str] = ()) -> Mapping[str, list[int]]:
    """Queue every failed trial, or those of some kinds (`sweeps.config.failure_kinds`), once more.

    Returns trial numbers by domain.

    Raises:
        UserError: a process runs the sweep; on a cluster it would write over what is queued here.
    """
    queued: dict[str, list[int]] = {}
    with gate(records.place.folder):
        if driver := living_driver(records.place):
            raise UserError(
                f"this sweep is running ({driver}): wait for it to end, or stop it with `stop`, "
                "then retry its failed trials"
            )
        for domain in records.config.domains:
            study, folder = records.study(domain), partial(records.place.trial, domain)
            clear = partial(remove, records.place)
            queued[domain] = [] if study is None else queue_again(study, kinds, folder, clear)
        if any(queued.values()):
            send_database(records.place)
    return queued


def queue_again(
    study: optuna.Study, kinds: Collection[str], folder: Callable[[str], Path], clear: Remove
) -> list[int]:
    """Queue the failed trials of one study, or those of some kinds; returns their numbers.

    A trial resumes from its checkpoint if it has one. Files of the failed attempt that would be
    taken for the next one's are removed by ``clear``: a recorded divergence would be reported
    again without an attempt. ``folder``: that of a trial, by its key.
    """
    failed = _failed(study, kinds)
    clear([folder(trial.user_attrs[KEY]) / name for trial in failed for name in FORGOTTEN])
    for trial in failed:
        _queue(study, trial)
    return [int(trial.user_attrs[NUMBER]) for trial in failed]


def _failed(study: optuna.Study, kinds: Collection[str]) -> list[FrozenTrial]:
    return [
        trial
        for trial in finished_trials(study)
        if (outcome := trial.user_attrs.get("outcome", {})).get("state") == "failed"
        and (not kinds or outcome["kind"] in kinds)
    ]


def _queue(study: optuna.Study, trial: FrozenTrial) -> None:
    if INCOMPLETE in trial.user_attrs:
        reopen(study, trial)
        return
    attrs = {name: trial.user_attrs[name] for name in LASTING if name in trial.user_attrs}
    attrs[RETRY_OF] = trial.number
    study.enqueue_trial(point_of(trial), user_attrs=attrs)
