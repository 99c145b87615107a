"""Attempts of a trial in Optuna's records; only the last attempt of a trial counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self, final

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeps.config.search_space import Point
from sweeps.search.optuna_compat import is_queued, queued_attrs, queued_params, set_attr
from sweeps.storage.interrupts import shielded

INTERRUPTED, RETRY_OF = "interrupted", "retry_of"
NUMBER, KEY = "number", "key"
"""Shared by all attempts of a trial: its number in the study, and its folder once it has a point.
"""
INCOMPLETE = "incomplete"
"""Of a finished trial, running to Optuna: other seeds of its point have not ended."""
REACHED, UNPROMISING, STOPPED = "reached", "unpromising", "stopped"
"""Of a running trial: its last check, the pruner's verdict if there is one, and whether the user
asked to stop it."""
EARLIER, IMPORTED = "earlier_space", "imported"
"""The point of a trial outside the space, which was changed; and the `source` of a trial that was
imported, with its `number` there."""

REQUEST, FORK, POINT = "request", "fork", "point"
"""Of a trial that a person added: the name of the request; of a fork, its `Lineage` and its point.
A fork has no parameters in Optuna, so no sampler learns from it. FORK is also its stage."""

LASTING = (NUMBER, REQUEST, FORK, POINT)
"""What every attempt of a trial has."""


@final
@dataclass(frozen=True)
class Lineage:
    """Where a fork starts: the number and the key of its parent, and the updates done there."""

    trial: int
    key: str
    step: int

    @classmethod
    def of(cls, trial: FrozenTrial | optuna.Trial) -> Self | None:
        """That of a recorded trial; None if it is no fork."""
        found = trial.user_attrs.get(FORK)
        return None if found is None else cls(**found)


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The study's own trials that need no further work: complete, stopped early, or failed for
    good."""
    return [
        trial
        for trial in latest_attempts(study)
        if trial.state.is_finished()
        and INTERRUPTED not in trial.user_attrs
        and not is_foreign(trial)
    ]


def next_number(study: optuna.Study) -> int:
    """The number of the next trial: the count of the trials started before it."""
    trials = study.get_trials(deepcopy=False)
    taken = [t.user_attrs[NUMBER] for t in trials if NUMBER in t.user_attrs and not is_void(t)]
    return 1 + max(taken, default=-1)


def is_void(trial: FrozenTrial) -> bool:
    """Whether a trial was interrupted before it had a point.

    The next trial takes its number, and so draws the same point.
    """
    return INTERRUPTED in trial.user_attrs and KEY not in trial.user_attrs


def is_foreign(trial: FrozenTrial) -> bool:
    """Whether a trial is outside the space or of another study: it neither counts as one of the
    search nor keeps a point from being drawn."""
    return EARLIER in trial.user_attrs or IMPORTED in trial.user_attrs


def point_of(trial: FrozenTrial) -> dict[str, Any]:
    """The queued parameters of a trial, updated with the drawn ones; empty for a fork."""
    return {**trial.user_attrs.get(EARLIER, {}), **queued_params(trial), **trial.params}


def recorded_params(trial: FrozenTrial) -> dict[str, Any]:
    """The parameters of a trial, also of a fork."""
    return {**point_of(trial), **trial.user_attrs.get(POINT, {})}


def lineages(study: optuna.Study) -> dict[int, Lineage]:
    """Where each fork that has a number starts."""
    trials = study.get_trials(deepcopy=False)
    found = {trial.user_attrs.get(NUMBER): Lineage.of(trial) for trial in trials}
    return {number: one for number, one in found.items() if number is not None and one}


def draw_index(study: optuna.Study, trial: FrozenTrial | optuna.Trial) -> int:
    """The position of a trial among those that the sampler draws, which decides its draw.

    Trials that a person added come on top and shift no other.
    """
    number = int(trial.user_attrs.get(NUMBER, trial.number))
    trials = study.get_trials(deepcopy=False)
    added = {int(t.user_attrs.get(NUMBER, number)) for t in trials if REQUEST in t.user_attrs}
    return number - len([other for other in added if other < number])


@shielded()
def mark_interrupted(study: optuna.Study) -> list[FrozenTrial]:
    """Close the trials that a dead or stopping driver left running; they can be queued again."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    orphans = [trial for trial in running if INCOMPLETE not in trial.user_attrs]
    for trial in orphans:
        withdraw(study, trial)
    return orphans


def incomplete(study: optuna.Study) -> list[FrozenTrial]:
    """The finished trials whose points wait for other seeds."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [trial for trial in running if INCOMPLETE in trial.user_attrs]


def withdraw(study: optuna.Study, trial: FrozenTrial | optuna.Trial) -> None:
    """Close a running trial as interrupted."""
    set_attr(study, trial, INTERRUPTED, True)
    study.tell(trial.number, state=TrialState.FAIL)


def queue_interrupted(study: optuna.Study) -> int:
    """Queue every interrupted trial once more, with the same point, number and key.

    A trial killed before its point was complete is not queued: the next trial takes its number and
    draws the point again.
    """
    queued = 0
    for trial in latest_attempts(study):
        is_over = EARLIER in trial.user_attrs or (is_void(trial) and not is_queued(trial))
        is_closed = trial.state is TrialState.FAIL and INTERRUPTED in trial.user_attrs
        if is_closed and not is_over:
            study.add_trial(_next_attempt(trial))
            queued += 1
    return queued


def _next_attempt(trial: FrozenTrial) -> FrozenTrial:
    """A waiting trial that continues ``trial`` from its checkpoint.

    Unlike `enqueue_trial`, it keeps the checks already made and the notes of the pruner (its
    rungs) and the sampler (its generation).
    """
    kept = (*LASTING, REACHED, UNPROMISING, STOPPED)
    attrs = {name: trial.user_attrs[name] for name in kept if name in trial.user_attrs}
    # If the driver was killed while drawing the point, the parts it left are drawn again.
    point = queued_params(trial) if is_void(trial) else point_of(trial)
    return create_trial(
        state=TrialState.WAITING,
        system_attrs=queued_attrs(trial, point),
        user_attrs={**attrs, RETRY_OF: trial.number},
        intermediate_values=trial.intermediate_values,
    )


def queue_points(
    study: optuna.Study, points: Iterable[Point], attrs: Mapping[str, Any] | None = None
) -> int:
    """Queue the points that the study does not have yet, with these user attributes; returns the
    number of waiting trials."""
    trials = study.get_trials(deepcopy=False)
    known = {identity(point_of(trial)) for trial in trials}
    for point in points:
        if identity(point) not in known:
            study.enqueue_trial(point, user_attrs=dict(attrs or {}))
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return len(waiting)


def identity(point: Point) -> tuple[tuple[str, float | int | str], ...]:
    """What equal points share."""
    return tuple(sorted(point.items()))


def latest_attempts(study: optuna.Study) -> list[FrozenTrial]:
    """The trials without the interrupted attempts that a later trial continues."""
    superseded = retried(study)
    return [t for t in study.get_trials(deepcopy=False) if t.number not in superseded]


def retried(study: optuna.Study) -> set[int]:
    """Optuna's numbers of the interrupted attempts that a later trial continues."""
    trials = study.get_trials(deepcopy=False)
    return {trial.user_attrs[RETRY_OF] for trial in trials if RETRY_OF in trial.user_attrs}
