"""Connect Tune to an Optuna study, whose storage holds the authoritative state.

Ray's own `OptunaSearch` reports an early-stopped trial as complete with its low-fidelity value,
leaves NaN trials running forever, and repeats its suggestions after a resume. Here every outcome
is reported as what it is, and interrupted trials are queued again under their own keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, final

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from sweeps.config.search_config import Objective, bounded
from sweeps.config.search_space import Point
from sweeps.execution.job_messages import TrialJob
from sweeps.report.trial_row import CUT_SHORT, FRESH
from sweeps.search.attempt_records import (
    FORK,
    KEY,
    NUMBER,
    REACHED,
    STOPPED,
    UNPROMISING,
    next_number,
    retried,
    withdraw,
)
from sweeps.search.design import REPLICATE, DesignSpace
from sweeps.search.optuna_compat import stored
from sweeps.search.outcomes import (
    constrained,
    ending,
    has_ended,
    metrics_of,
    objective_values,
    optuna_state,
    outcome,
)
from sweeps.search.pending_trials import SearchSpace
from sweeps.search.point_seeds import PointSeeds
from sweeps.search.pruners import LatestAttempts, is_spared
from sweeps.search.requests import Inbox
from sweeps.search.samplers import Exhausted
from sweeps.storage.outages import retry_storage
from sweeps.storage.trial_files import EVENTS_FILE

FETCH_SECONDS = 60.0
"""How long to wait for a finished trial's events, if an objective is measured from them."""

FINISHED = str(Searcher.FINISHED)
"""Tune's value for "no further trial"."""


@final
class StudySearch:
    """The part of Tune's searcher for one Optuna study; see `BatchSearcher`.

    ``build_job(number, point)`` makes a trial's job; ``stopping``: whether it is to stop;
    ``fetch``: see `sweeps.storage.remote_sync.fetcher`.

    ``checks``: validation checks of a whole trial; the pruner counts in them. ``starts``: how many
    points `search.start` has, whose trials no pruner stops. With several ``objectives`` no
    intermediate score is reported: Optuna has no place for it. ``constraints``: on finished
    trials; Optuna's samplers read them from the records. ``seeds``: of the points, if there are
    several. ``inbox``: requests made while it runs.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace | DesignSpace,
        build_job: Callable[[int, Point], TrialJob],
        *,
        checks: int = 1,
        starts: int = 0,
        objectives: Sequence[Objective] = ("score",),
        constraints: Sequence[str] = (),
        seeds: PointSeeds | None = None,
        stopping: Callable[[], bool] = lambda: False,
        fetch: Callable[[Path], None] = lambda events: None,
        inbox: Inbox | None = None,
    ) -> None:
        self._study, self._space, self._build_job = study, space, build_job
        self._checks, self._starts, self._objectives = checks, starts, objectives
        self._constraints, self._seeds = constraints, seeds
        self._measured = tuple(dict.fromkeys((*objectives, *map(bounded, constraints))))
        self._stopping, self._fetch, self._inbox = stopping, fetch, inbox
        self._open: dict[str, optuna.Trial] = {}
        self._folders: dict[str, str] = {}
        self._told: dict[str, dict[str, Any]] = {}

    def is_listening(self) -> bool:
        """Whether requests may still add trials."""
        return self._inbox is not None and not self._stopping()

    def accepted(self) -> int:
        """How many trials requests have added since the last call; see `Inbox.accept`."""
        return self._inbox.accept() if self._inbox is not None else 0

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Ask Optuna for the next point, unless the study stops or no point is left."""
        if self._stopping():
            return FINISHED
        trial = self._study.ask()
        if NUMBER not in trial.user_attrs:  # before its point, which follows from it
            trial.set_user_attr(NUMBER, next_number(self._study))
        try:
            point = self._space.suggest(trial)
        except Exhausted:
            withdraw(self._study, trial)
            return FINISHED
        job = self._build_job(trial.user_attrs[NUMBER], point)
        trial.set_user_attr(KEY, job.key)
        trial.set_user_attr("method", job.method)  # it may be the sweep's and not a parameter
        if self._seeds is not None:
            self._seeds.begin(stored(trial))
        self._open[trial_id], self._folders[trial_id] = trial, job.folder
        return {"job": job}

    def is_unpromising(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Record an intermediate score and ask the study's pruner, once per check, and the user.

        The last check is excluded: a trial that reaches it has finished.
        """
        trial = self._open.get(trial_id)
        if trial is None:
            return False
        if self._report(trial, result):
            others = LatestAttempts(self._study, retried(self._study))
            # Also for trials that are never stopped: the pruner stores rungs for others there.
            if self._study.pruner.prune(others, stored(trial)) and not self._is_spared(trial):
                trial.set_user_attr(UNPROMISING, True)  # the verdict survives a kill
        if self._inbox is not None:
            self._inbox.note_stops({t.user_attrs[NUMBER]: t for t in self._open.values()})
        return self._is_given_up(trial)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna how the trial ended; see `optuna_state`."""
        trial, folder = self._open.pop(trial_id, None), self._folders.pop(trial_id, "")
        result = result or {}
        if trial is None or self._was_cut_short(trial, result, error):
            return  # a trial cut short by a stop stays open, to be marked as interrupted
        state, values = ending(result, error), None
        if state == "stopped_early" and STOPPED in trial.user_attrs:
            state = "stopped_by_user"
        if state == "finished":
            if "kept_fraction" in self._measured:
                with suppress(OSError):  # then it was not measured
                    retry_storage(lambda: self._fetch(Path(folder) / EVENTS_FILE), FETCH_SECONDS)
            values = objective_values(self._measured, metrics_of(result), result["score"], folder)
            if values is None:
                state, result = "failed", {**result, "failure": self._unmeasured()}
        ended = outcome(result, state)
        if values is not None:
            ended["metrics"] |= {f"objective/{k}": v for k, v in values.items() if k != "score"}
            if violated := self._constrain(trial, values):
                ended["violated"] = violated
        trial.set_user_attr("outcome", ended)
        self._told[trial_id] = ended
        told = optuna_state(ended) if self._seeds is None else self._seeds.state(trial, ended)
        if FORK in trial.user_attrs:
            told = TrialState.FAIL  # which samplers ignore: it is no point of theirs
        if told is TrialState.COMPLETE and values is not None:
            self._study.tell(trial, [values[name] for name in self._objectives])
        elif told is not TrialState.RUNNING:
            if state in CUT_SHORT:
                self._report(trial, result)
            self._study.tell(trial, state=told)
        if self._seeds is not None:
            self._seeds.settle()

    def _constrain(self, trial: optuna.Trial, values: Mapping[Objective, float]) -> list[str]:
        """Record by how much each constraint is violated; returns those that are."""
        excesses = constrained(self._constraints, values)
        for one, amount in excesses.items():
            trial.set_constraint(one, amount)
        return [one for one, amount in excesses.items() if amount > 0]

    def told(self, trial_id: str) -> dict[str, Any] | None:
        """The outcome of a complete trial, available once; None if the trial was cut short.

        Tune calls its searcher before its callbacks, which use this outcome.
        """
        return self._told.pop(trial_id, None)

    def _is_judged(self, trial: optuna.Trial) -> bool:
        """Whether the pruner applies; forks and other seeds of a point run to their end, not
        compared."""
        is_point = trial.params.get("stage") not in (REPLICATE, FRESH)
        return len(self._objectives) == 1 and is_point and FORK not in trial.user_attrs

    def _report(self, trial: optuna.Trial, result: dict[str, Any]) -> bool:
        """Record a check; returns whether it is new."""
        score, step, steps = (result.get(name) for name in ("score", "step", "steps"))
        if score is None or step is None or not math.isfinite(score):
            return False
        steps = steps or step
        trial.set_user_attr(REACHED, {"score": score, "step": step, "steps": steps})
        check = self._checks * int(step) // int(steps)
        # A trial that lost its group repeats its checks; Optuna keeps the first of each.
        is_new = self._is_judged(trial) and check not in stored(trial).intermediate_values
        if is_new:
            trial.report(float(score), check)
        return is_new

    def _was_cut_short(self, trial: optuna.Trial, result: dict[str, Any], error: bool) -> bool:
        is_over = has_ended(result, error) or self._is_given_up(trial)
        return self._stopping() and not is_over

    def _is_given_up(self, trial: optuna.Trial) -> bool:
        is_unpromising = UNPROMISING in trial.user_attrs and not self._is_spared(trial)
        return is_unpromising or {STOPPED, REACHED} <= trial.user_attrs.keys()

    def _is_spared(self, trial: optuna.Trial) -> bool:
        return is_spared(trial, self._starts)

    def _unmeasured(self) -> str:
        return f"not every objective was measured: {', '.join(self._measured)}"
