"""A trial in Optuna's records: it may have several tries, of which the last one counts."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeps.config.space import Point
from sweeps.search.optuna_compat import is_queued, queued_attrs, queued_params, set_attr
from sweeps.storage.interrupts import shielded

INTERRUPTED, RETRY_OF, DRIVER = "interrupted", "retry_of", "driver"
NUMBER, KEY = "number", "key"
"""Of a trial and all its tries: its place in the study, and its folder once it has its point."""
REACHED, UNPROMISING = "reached", "unpromising"
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


def next_number(study: optuna.Study) -> int:
    """The number of a trial that begins now: as many have begun before it."""
    trials = study.get_trials(deepcopy=False)
    taken = [t.user_attrs[NUMBER] for t in trials if NUMBER in t.user_attrs and not is_void(t)]
    return 1 + max(taken, default=-1)


def is_void(trial: FrozenTrial) -> bool:
    """Whether it was interrupted before it had its point: nothing of it was begun, and the next
    trial takes its number, with which the same point is drawn."""
    return INTERRUPTED in trial.user_attrs and KEY not in trial.user_attrs


def point_of(trial: FrozenTrial) -> dict[str, Any]:
    """What was queued for a trial, and what was drawn."""
    return {**queued_params(trial), **trial.params}


@shielded()
def mark_interrupted(study: optuna.Study, living: Container[str] = ()) -> list[FrozenTrial]:
    """Close the trials that a dead or stopping driver left running; they can be queued again.

    ``living``: the ids of other drivers, whose trials go on.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    orphans = [trial for trial in running if trial.user_attrs.get(DRIVER) not in living]
    for trial in orphans:
        withdraw(study, trial)
    return orphans


def withdraw(study: optuna.Study, trial: FrozenTrial | optuna.Trial) -> None:
    """Close a running trial as one that was interrupted."""
    set_attr(study, trial, INTERRUPTED, True)
    study.tell(trial.number, state=TrialState.FAIL)


def queue_interrupted(study: optuna.Study) -> int:
    """Queue every interrupted trial once more, at the same point, number and key.

    One that was killed while its point was drawn is drawn again, by whoever takes its number.
    """
    queued = 0
    superseded = retried(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
        is_drawn = is_void(trial) and not is_queued(trial)
        if INTERRUPTED in trial.user_attrs and trial.number not in superseded and not is_drawn:
            study.add_trial(_next_try(trial))
            queued += 1
    return queued


def _next_try(trial: FrozenTrial) -> FrozenTrial:
    """What `enqueue_trial` would queue, with the checks that the trial has behind it, for it goes
    on from its checkpoint, and with what the pruner (its rungs) and the sampler (its generation)
    have noted of it."""
    kept = (NUMBER, REACHED, UNPROMISING)
    attrs = {name: trial.user_attrs[name] for name in kept if name in trial.user_attrs}
    # A part of a point, that a session killed while it drew it leaves, is drawn again.
    point = queued_params(trial) if is_void(trial) else point_of(trial)
    return create_trial(
        state=TrialState.WAITING,
        system_attrs=queued_attrs(trial, point),
        user_attrs={**attrs, RETRY_OF: trial.number},
        intermediate_values=trial.intermediate_values,
    )


def queue_points(study: optuna.Study, points: Iterable[Point]) -> int:
    """Queue the points that the study does not have yet; returns how many trials now wait."""
    trials = study.get_trials(deepcopy=False)
    known = {_identity(point_of(trial)) for trial in trials}
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
