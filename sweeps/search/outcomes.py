"""The outcome of a trial, taken from its last result, and its value in each objective."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from sweeps.config.search_config import Objective, bounded, excess
from sweeps.report.trial_row import CUT_SHORT
from sweeps.storage.trial_files import EVENTS_FILE, step_events


def has_ended(result: dict[str, Any], error: bool) -> bool:
    """Whether a trial ended by itself; Tune stops others at an intermediate result."""
    return error or "state" in result


def ending(result: dict[str, Any], error: bool) -> str:
    """A trial's final state as a `TrialState` of the tracker, from its last result."""
    score = result.get("score")
    broken = error or result.get("state") in ("failed", "diverged")
    if broken or score is None or not math.isfinite(score):
        return "failed"
    return "finished" if result.get("state") == "finished" else "stopped_early"


def outcome(result: dict[str, Any], state: str) -> dict[str, Any]:
    """The part of a trial's result that the report needs; stored with it in Optuna.

    ``seconds``: since workers had it. ``kind`` is one of `sweeps.config.failure_kinds`; it and
    ``failure``, the cause, are empty unless the trial failed.
    """
    kept: dict[str, Any] = {name: result[name] for name in ("step", "steps") if name in result}
    score = result.get("score")
    is_failed = state == "failed"
    return {
        **kept,
        "state": state,
        "score": score if score is not None and math.isfinite(score) else None,
        "seconds": result.get("seconds", result.get("time_total_s", 0.0)),
        "metrics": {k: v for k, v in metrics_of(result).items() if math.isfinite(v)},
        "failure": _failure(result) if is_failed else "",
        "kind": _kind(result) if is_failed else "",
    }


def optuna_state(ended: Mapping[str, Any]) -> TrialState:
    """How Optuna is told of an outcome: COMPLETE, PRUNED or FAIL.

    A divergence is PRUNED too. Samplers ignore FAIL and would draw such a point again, while TPE
    ranks a pruned trial without a value last.
    """
    if ended["state"] == "finished":
        return TrialState.COMPLETE
    is_verdict = ended["state"] in CUT_SHORT or ended["kind"] == "diverged"
    return TrialState.PRUNED if is_verdict else TrialState.FAIL


def constrained(constraints: Sequence[str], values: Mapping[Objective, float]) -> dict[str, float]:
    """By how much each constraint is violated; 0 or less if it is not."""
    return {one: excess(one, values[bounded(one)]) for one in constraints}


def _kind(result: dict[str, Any]) -> str:
    score = result.get("score")
    if result.get("state") == "diverged" or (score is not None and not math.isfinite(score)):
        return "diverged"
    return str(result.get("kind", "infrastructure"))


def metrics_of(result: dict[str, Any]) -> dict[str, float]:
    """The run's metrics; Tune passes results to searchers flattened, as ``metrics/<name>``."""
    flat = {k.removeprefix("metrics/"): v for k, v in result.items() if k.startswith("metrics/")}
    return {**flat, **result.get("metrics", {})}


def _failure(result: dict[str, Any]) -> str:
    if said := result.get("failure") or result.get("reason"):
        return str(said)
    if result.get("state") == "diverged":
        return "the training loss was not a finite number"
    score = result.get("score")
    return "its workers were lost" if score is None else f"its score was {score}"


KEPT = "gmt/kept_fraction"
MEASURED: Mapping[Objective, str] = {
    "seconds": "cost/train_seconds",
    "forgetting": "forgetting/bits_per_byte",
}
"""The metric of an objective that a trial measures once."""


def objective_values(
    objectives: Sequence[Objective], metrics: Mapping[str, float], score: float, folder: str
) -> dict[Objective, float] | None:
    """The value of each objective, in order; None if one was not measured.

    ``metrics``: those of the trial's last result. ``folder``: the folder with its event log.
    """
    found: dict[Objective, float] = {}
    for name in objectives:
        if name == "score":
            found[name] = score
        elif f"objective/{name}" in metrics:
            found[name] = metrics[f"objective/{name}"]
        elif name in MEASURED:
            found[name] = metrics.get(MEASURED[name], math.nan)
        else:
            found[name] = kept_fraction(Path(folder) / EVENTS_FILE)
    return found if all(math.isfinite(value) for value in found.values()) else None


def judged(
    ended: Mapping[str, Any],
    objectives: Sequence[Objective],
    constraints: Sequence[str],
    folder: str = "",
) -> tuple[list[float], dict[str, float]] | None:
    """The objectives of a finished outcome, and by how much it violates each constraint; None if
    one was not measured."""
    measured = tuple(dict.fromkeys((*objectives, *map(bounded, constraints))))
    values = objective_values(measured, ended["metrics"], ended["score"], folder)
    if values is None:
        return None
    return [values[name] for name in objectives], constrained(constraints, values)


def kept_fraction(events: Path) -> float:
    """The mean over all measured updates; NaN if there is none.

    Read from the event log, because a resumed trial saw only its later updates itself.
    """
    measured = [event for event in step_events(events) if KEPT in event["metrics"]]
    kept = {event["step"]: event["metrics"][KEPT] for event in measured}
    return sum(kept.values()) / len(kept) if kept else math.nan
