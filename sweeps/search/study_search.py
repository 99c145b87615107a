"""The bridge between Tune and an Optuna study whose storage is the truth.

Ray's own `OptunaSearch` tells an early-stopped trial as complete with its low-fidelity value,
leaves NaN trials running for ever and repeats its suggestions after a resume; here each ending is
told as what it is, and an interrupted trial is queued again under its own key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, final

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray.tune.search import Searcher

from sweeps.designs.point import REPLICATE
from sweeps.interrupts import shielded
from sweeps.search.objectives import reached
from sweeps.search.pruners import LatestTries
from sweeps.settings.search_config import Objective
from sweeps.settings.space import Point

Suggestion = dict[str, Any]
"""What a trial is started with: the job of its group."""

INTERRUPTED, RETRY_OF, DRIVER = "interrupted", "retry_of", "driver"
REACHED, HOPELESS = "reached", "hopeless"
"""Of a trial that runs: its last check, and the pruner's verdict once it has been said."""

FINISHED = str(Searcher.FINISHED)
"""Tune's word for: no further trial."""


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


class Space(Protocol):
    """Draws a trial's point: a search space, or a fixed design's bounds."""

    def suggest(self, trial: optuna.Trial) -> Point:
        """The point of this trial."""


_NO_TURNS: AbstractContextManager[None] = nullcontext()


@final
class StudySearch(Searcher):
    """Tune's searcher over one Optuna study. ``suggestion(number, point)`` makes a trial's job;
    ``driver``: the id of this process, ``turn``: what drivers of one study hold in turn,
    ``more``: whether it still lacks trials, ``halting``: whether it is to stop before that.

    ``checks``: validation checks of a whole trial; the pruner counts in them. With several
    ``objectives`` no intermediate score is reported: Optuna has no place for it.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        suggestion: Callable[[int, Point], Suggestion],
        *,
        checks: int = 1,
        objectives: Sequence[Objective] = ("score",),
        driver: str = "",
        turn: AbstractContextManager[object] = _NO_TURNS,
        more: Callable[[], bool] = lambda: True,
        halting: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(metric="score", mode="max")
        self._study, self._space, self._suggestion = study, space, suggestion
        self._checks, self._objectives = checks, objectives
        self._driver, self._turn, self._more, self._halting = driver, turn, more, halting
        self._open: dict[str, optuna.Trial] = {}
        self._folders: dict[str, str] = {}
        self._told: dict[str, dict[str, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher for a snapshot that is never restored."""
        return {}

    def suggest(self, trial_id: str) -> Suggestion | str:
        """Ask Optuna for the next point, unless the study halts or other drivers took the rest."""
        if self._halting():
            return FINISHED
        with self._turn:  # what waits is asked for once, and has its driver's name before all else
            if not self._more():
                return FINISHED
            trial = self._study.ask()
            trial.set_user_attr(DRIVER, self._driver)
        number = int(trial.user_attrs.get("number", trial.number))
        job = self._suggestion(number, self._space.suggest(trial))
        trial.set_user_attr("number", number)
        trial.set_user_attr("key", job["key"])
        self._open[trial_id], self._folders[trial_id] = trial, job.get("folder", "")
        return job

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An intermediate validation score, for Optuna's record of the trial."""
        if (trial := self._open.get(trial_id)) is not None:
            self._report(trial, result)

    def is_hopeless(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Record an intermediate score and ask the study's pruner, once for each check. The last
        check is none of them: a trial that got so far has finished."""
        trial = self._open.get(trial_id)
        if trial is None:
            return False
        if self._report(trial, result):
            others = LatestTries(self._study, retried(self._study))
            if self._study.pruner.prune(others, _stored(trial)):
                trial.set_user_attr(HOPELESS, True)  # a kill right now changes no verdict
        return HOPELESS in trial.user_attrs

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna how the trial ended: COMPLETE, PRUNED or FAIL.

        A divergence, too, is PRUNED: samplers pass over what is FAIL, and would draw such a point
        again, while TPE takes what was pruned without a value for the worst of all.
        """
        trial, folder = self._open.pop(trial_id, None), self._folders.pop(trial_id, "")
        result = result or {}
        if trial is None or self._was_cut_short(trial, result, error):
            return  # what a halt cut short stays open, to be marked as interrupted
        state, values = ending(result, error), None
        if state == "finished":
            values = reached(self._objectives, _metrics(result), result["score"], folder)
            if values is None:
                state, result = "failed", {**result, "failure": self._unmeasured()}
        ended = outcome(result, state)
        if values is not None:
            ended["metrics"] |= {f"objective/{k}": v for k, v in values.items() if k != "score"}
        trial.set_user_attr("outcome", ended)
        self._told[trial_id] = ended
        if values is not None:
            self._study.tell(trial, list(values.values()))
            return
        if state == "stopped_early":
            self._report(trial, result)
        is_verdict = state == "stopped_early" or ended["kind"] == "diverged"
        self._study.tell(trial, state=TrialState.PRUNED if is_verdict else TrialState.FAIL)

    def told(self, trial_id: str) -> dict[str, Any] | None:
        """The outcome of a trial that is complete, to be asked for once; None where a halt cut
        it short. Tune tells its searcher first: whoever comes later goes by this."""
        return self._told.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the Optuna storage is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as ``save``."""

    def _is_judged(self, trial: optuna.Trial) -> bool:
        """A replicate is run to its end, and no measure for others."""
        return len(self._objectives) == 1 and trial.params.get("stage") != REPLICATE

    def _report(self, trial: optuna.Trial, result: dict[str, Any]) -> bool:
        """Record a check; whether it is a new one."""
        score, step, steps = (result.get(name) for name in ("score", "step", "steps"))
        if score is None or step is None or not math.isfinite(score):
            return False
        steps = steps or step
        trial.set_user_attr(REACHED, {"score": score, "step": step, "steps": steps})
        check = self._checks * int(step) // int(steps)
        # A trial whose group was lost starts again and repeats its checks; Optuna keeps the first.
        is_new = self._is_judged(trial) and check not in _stored(trial).intermediate_values
        if is_new:
            trial.report(float(score), check)
        return is_new

    def _was_cut_short(self, trial: optuna.Trial, result: dict[str, Any], error: bool) -> bool:
        is_over = has_ended(result, error) or HOPELESS in trial.user_attrs
        return self._halting() and not is_over

    def _unmeasured(self) -> str:
        return f"not every objective was measured: {', '.join(self._objectives)}"


def _stored(trial: optuna.Trial) -> FrozenTrial:
    return trial.storage.get_trial(trial._trial_id)


def has_ended(result: dict[str, Any], error: bool) -> bool:
    """Whether a trial ended by itself; Tune stops others at an intermediate result."""
    return error or "state" in result


def ending(result: dict[str, Any], error: bool) -> str:
    """A trial's ending as a `TrialState` of the tracker, from its last result."""
    score = result.get("score")
    broken = error or result.get("state") in ("failed", "diverged")
    if broken or score is None or not math.isfinite(score):
        return "failed"
    return "finished" if result.get("state") == "finished" else "stopped_early"


def outcome(result: dict[str, Any], state: str) -> dict[str, Any]:
    """What the report needs of a trial, kept with it in the Optuna storage."""
    kept: dict[str, Any] = {
        name: result[name] for name in ("step", "steps", "model_folder") if name in result
    }
    score = result.get("score")
    return {
        **kept,
        "state": state,
        "score": score if score is not None and math.isfinite(score) else None,
        "seconds": result.get("time_total_s", 0.0),
        "metrics": {k: v for k, v in _metrics(result).items() if math.isfinite(v)},
        "failure": _failure(result, state),
        "kind": _kind(result, state),
    }


def _kind(result: dict[str, Any], state: str) -> str:
    """The kind of a failure (see `sweeps.settings.failures`); empty for every other ending."""
    if state != "failed":
        return ""
    score = result.get("score")
    if result.get("state") == "diverged" or (score is not None and not math.isfinite(score)):
        return "diverged"
    return str(result.get("kind", "infrastructure"))


def _metrics(result: dict[str, Any]) -> dict[str, float]:
    """The run's metrics; Tune gives its searchers every result flat, as ``metrics/<name>``."""
    flat = {k.removeprefix("metrics/"): v for k, v in result.items() if k.startswith("metrics/")}
    return {**flat, **result.get("metrics", {})}


def _failure(result: dict[str, Any], state: str) -> str:
    """Why a trial failed; empty for every other ending."""
    if state != "failed":
        return ""
    said = result.get("failure") or result.get("reason")
    if said:
        return str(said)
    if result.get("state") == "diverged":
        return "the training loss was not a finite number"
    score = result.get("score")
    return "its workers were lost" if score is None else f"its score was {score}"
