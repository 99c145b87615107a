"""A study's Optuna records as the rows of its report."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeps.report.data import TrialRow, best_first
from sweeps.search.tries import INTERRUPTED, REACHED, retried

_STATES = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "pending",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped_early",
    TrialState.FAIL: "failed",
}


def trial_rows(study: optuna.Study, seed: int) -> tuple[TrialRow, ...]:
    """One row per started trial, by number, without interrupted tries that were queued again."""
    superseded = retried(study)
    rows = [
        _row(trial, seed)
        for trial in study.get_trials(deepcopy=False)
        if "key" in trial.user_attrs and trial.number not in superseded
    ]
    return tuple(sorted(rows, key=lambda row: row.number))


def own_rows(rows: tuple[TrialRow, ...]) -> tuple[TrialRow, ...]:
    """What a study chooses among: a search's own trials, not the replicates of its best. Every
    trial of a fixed design has a stage, and all of them are its own."""
    return tuple(row for row in rows if not row.stage) or rows


def best_row(rows: tuple[TrialRow, ...]) -> TrialRow | None:
    """The finished trial with the highest validation score; the earlier one of two equals."""
    return next(iter(best_rows(rows, 1)), None)


def ranked(rows: tuple[TrialRow, ...]) -> list[TrialRow]:
    """The best validation score first of those that ran to their end; then of the others, whose
    scores are of earlier steps; those without one last."""
    whole = best_first(rows)
    others = [row for row in rows if row not in whole]
    return [*whole, *sorted(others, key=lambda row: (row.score is None, -(row.score or 0.0)))]


def best_rows(rows: tuple[TrialRow, ...], count: int) -> tuple[TrialRow, ...]:
    """The ``count`` best finished trials, as `best_row` orders them."""
    return tuple(best_first(own_rows(rows))[:count])


def best_sft_row(rows: tuple[TrialRow, ...]) -> TrialRow | None:
    """The best finished trial without masking: the control."""
    return best_row(tuple(row for row in rows if row.is_sft()))


def _state(trial: FrozenTrial) -> str:
    if INTERRUPTED in trial.user_attrs:
        return "interrupted"
    said = trial.user_attrs.get("outcome", {}).get("state")  # for Optuna, to diverge is not FAIL
    return said if said and trial.state.is_finished() else _STATES[trial.state]


def _row(trial: FrozenTrial, seed: int) -> TrialRow:
    attrs: dict[str, Any] = trial.user_attrs
    # Without an outcome it runs, or was interrupted: what counts is its last check.
    outcome: dict[str, Any] = attrs.get("outcome", attrs.get(REACHED, {}))
    return TrialRow(
        number=attrs["number"],
        key=attrs["key"],
        state=_state(trial),
        mask_ratio=round(trial.params.get("mask_ratio", 0.0), 10),
        accumulation_interval=int(trial.params["accumulation_interval"]),
        learning_rate=trial.params["learning_rate"],
        seed=int(trial.params.get("seed", seed)),
        score=outcome.get("score"),
        step=int(outcome.get("step", 0)),
        steps=int(outcome.get("steps", 0)),
        seconds=float(outcome.get("seconds", 0.0)),
        metrics=outcome.get("metrics", {}),
        method=attrs.get("method", trial.params.get("method", "gmt")),
        stage=trial.params.get("stage", ""),
        train_fraction=trial.params.get("train_fraction", 1.0),
    )
