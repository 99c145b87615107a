"""A trial in Optuna's records: it may have several tries, of which the last one counts."""

from __future__ import annotations

from collections.abc import Container, Iterable

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeps.interrupts import shielded
from sweeps.settings.space import Point

INTERRUPTED, RETRY_OF, DRIVER = "interrupted", "retry_of", "driver"
REACHED, HOPELESS = "reached", "hopeless"
"""Of a trial that runs: its last check, and the pruner's verdict once it has been said."""


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that need no further work: complete, stopped early, or failed for good."""
    superseded = retried(study)
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished()
        and INTERRUPTED not in trial.user_attrs
        and trial.number not in superseded
    ]


@shielded()
def mark_interrupted(study: optuna.Study, living: Container[str] = ()) -> list[FrozenTrial]:
    """Close the trials that a dead or stopping driver left running; they can be queued again.

    ``living``: the ids of other drivers, whose trials go on.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    orphans = [trial for trial in running if trial.user_attrs.get(DRIVER) not in living]
    for trial in orphans:
        study._storage.set_trial_user_attr(trial._trial_id, INTERRUPTED, True)
        study.tell(trial.number, state=TrialState.FAIL)
    return orphans


def queue_interrupted(study: optuna.Study) -> int:
    """Queue every interrupted trial once more, at the same point, number and key."""
    queued = 0
    superseded = retried(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
        if INTERRUPTED in trial.user_attrs and trial.number not in superseded:
            study.add_trial(_next_try(trial))
            queued += 1
    return queued


def _next_try(trial: FrozenTrial) -> FrozenTrial:
    """What `enqueue_trial` would queue, with the checks and rungs that the trial has behind it:
    it goes on from its checkpoint and does not pass them again."""
    number = trial.user_attrs.get("number", trial.number)
    attrs = {"number": number, RETRY_OF: trial.number}
    kept = (REACHED, HOPELESS)
    attrs |= {name: trial.user_attrs[name] for name in kept if name in trial.user_attrs}
    rungs = {k: v for k, v in trial.system_attrs.items() if k.startswith("completed_rung_")}
    # A session killed while it drew the point leaves a part of it, or what was queued.
    point = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    return create_trial(
        state=TrialState.WAITING,
        system_attrs={"fixed_params": point, **rungs},
        user_attrs=attrs,
        intermediate_values=trial.intermediate_values,
    )


def queue_points(study: optuna.Study, points: Iterable[Point]) -> int:
    """Queue the points that the study does not have yet; returns how many trials now wait."""
    trials = study.get_trials(deepcopy=False)
    known = {_identity({**t.system_attrs.get("fixed_params", {}), **t.params}) for t in trials}
    for point in points:
        if _identity(point) not in known:
            study.enqueue_trial(point)
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return len(waiting)


def _identity(point: Point) -> tuple[tuple[str, float | int | str], ...]:
    return tuple(sorted(point.items()))


def retried(study: optuna.Study) -> set[int]:
    """Optuna's numbers of the interrupted tries that a later trial took up again."""
    trials = study.get_trials(deepcopy=False)
    return {trial.user_attrs[RETRY_OF] for trial in trials if RETRY_OF in trial.user_attrs}
