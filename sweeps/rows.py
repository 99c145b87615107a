"""A study's Optuna records as the rows of its report."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeps.report.data import TrialRow
from sweeps.search import INTERRUPTED, retried

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


def best_row(rows: tuple[TrialRow, ...]) -> TrialRow | None:
    """The finished trial with the highest validation score; the earlier one of two equals."""
    finished = [row for row in rows if row.state == "finished" and row.score is not None]
    return max(finished, key=lambda row: (row.score or 0.0, -row.number), default=None)


def best_rows(rows: tuple[TrialRow, ...], count: int) -> tuple[TrialRow, ...]:
    """The ``count`` best finished trials, as `best_row` orders them."""
    best: tuple[TrialRow, ...] = ()
    left = rows
    while len(best) < count and (found := best_row(left)) is not None:
        best, left = (*best, found), tuple(row for row in left if row is not found)
    return best


def best_sft_row(rows: tuple[TrialRow, ...]) -> TrialRow | None:
    """The best finished trial without masking: the control."""
    return best_row(tuple(row for row in rows if row.mask_ratio == 0))


def _row(trial: FrozenTrial, seed: int) -> TrialRow:
    attrs: dict[str, Any] = trial.user_attrs
    outcome: dict[str, Any] = attrs.get("outcome", {})
    last_step = max(trial.intermediate_values, default=0)
    score = outcome.get("score", trial.intermediate_values.get(last_step))
    return TrialRow(
        number=attrs["number"],
        key=attrs["key"],
        state="interrupted" if INTERRUPTED in attrs else _STATES[trial.state],
        mask_ratio=round(trial.params["mask_ratio"], 10),
        accumulation_interval=int(trial.params["accumulation_interval"]),
        learning_rate=trial.params["learning_rate"],
        seed=int(trial.params.get("seed", seed)),
        score=score,
        step=int(outcome.get("step", last_step)),
        steps=int(outcome.get("steps", last_step)),
        seconds=float(outcome.get("seconds", 0.0)),
        metrics=outcome.get("metrics", {}),
        method=trial.params.get("method", "gmt"),
        stage=trial.params.get("stage", ""),
        train_fraction=trial.params.get("train_fraction", 1.0),
    )
