"""Queue failed trials again, as further attempts with the same number and key.

This is the command `retry`. A running sweep also retries by itself: `execution.worker_groups`
decides by the kind of failure (`config.failure_kinds`), `execution.job_queue` counts attempts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

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
from sweeps.storage.remote_sync import living_driver, remove, send_database
from sweeps.storage.run_lock import gate
from sweeps.storage.trial_files import FAILURE_FILE, RESULT_FILE, SENT_FILE

FORGOTTEN = (RESULT_FILE, FAILURE_FILE, SENT_FILE)


def queue_failed(records: Records, kinds: Collection[str] = ()) -> Mapping[str, list[int]]:
    """Queue every failed trial, or those of some kinds (`sweeps.config.failure_kinds`), once more.

    A trial resumes from its checkpoint if it has one. A recorded divergence is removed, because
    it would otherwise be reported again without an attempt. Returns trial numbers by domain.

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
            study = records.study(domain)
            failed = [] if study is None else _failed(study, kinds)
            folders = [records.place.trial(domain, trial.user_attrs[KEY]) for trial in failed]
            # Files of the failed attempt that would be taken for the next one's.
            remove(records.place, [f / name for f in folders for name in FORGOTTEN])
            for trial in failed:
                _queue(study, trial)
            queued[domain] = [int(trial.user_attrs[NUMBER]) for trial in failed]
        if any(queued.values()):
            send_database(records.place)
    return queued


def _failed(study: optuna.Study, kinds: Collection[str]) -> list[FrozenTrial]:
    return [
        trial
        for trial in finished_trials(study)
        if (outcome := trial.user_attrs.get("outcome", {})).get("state") == "failed"
        and (not kinds or outcome["kind"] in kinds)
    ]


def _queue(study: optuna.Study | None, trial: FrozenTrial) -> None:
    assert study is not None
    if INCOMPLETE in trial.user_attrs:
        reopen(study, trial)
        return
    attrs = {name: trial.user_attrs[name] for name in LASTING if name in trial.user_attrs}
    attrs[RETRY_OF] = trial.number
    study.enqueue_trial(point_of(trial), user_attrs=attrs)
