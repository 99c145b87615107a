"""What stays on the disk, and what goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from sweeps.config.sweep_config import KeepConfig
from sweeps.report.trial_row import TrialRow
from sweeps.search.retention import drop_weights, remove_orphans


def row(number: int, score: float, ratio: float, state: str = "finished") -> TrialRow:
    return TrialRow(number, f"{number:03d}-k", state, ratio, 1, 1e-3, 0, score, 8, 8, 1.0)


ROWS = (
    row(0, 0.5, 0.0),
    row(1, 0.9, 0.4),
    row(2, 0.8, 0.2),
    row(3, 0.7, 0.6, "stopped_early"),
    row(4, 0.6, 0.1, "running"),
)


@pytest.fixture
def trials(tmp_path: Path) -> Path:
    """A folder with a model and a checkpoint for every trial."""
    for each in ROWS:
        for part in ("model", "checkpoint"):
            (tmp_path / each.key / part).mkdir(parents=True)
    return tmp_path


def kept(trials: Path) -> set[int]:
    return {each.number for each in ROWS if (trials / each.key / "model").exists()}


@pytest.mark.parametrize(
    ("models", "numbers"), [(1, {0, 1, 4}), (2, {0, 1, 2, 4}), ("all", {0, 1, 2, 3, 4})]
)
def test_the_best_the_control_and_what_still_runs_keep_their_weights(
    trials: Path, models: int | str, numbers: set[int]
) -> None:
    drop_weights(trials, ROWS, KeepConfig.model_validate({"models": models}), design=None)
    assert kept(trials) == numbers
    assert (trials / ROWS[4].key / "checkpoint").exists()


def test_forks_and_what_the_user_stopped_keep_what_they_have(tmp_path: Path) -> None:
    forked, stopped = replace(row(5, 0.1, 0.4), stage="fork"), row(6, 0.1, 0.4, "stopped_by_user")
    for each in (ROWS[2], forked, stopped):
        (tmp_path / each.key / "checkpoint").mkdir(parents=True)
    drop_weights(tmp_path, (*ROWS, forked, stopped), KeepConfig(), design=None)
    assert sorted(path.parent.name for path in tmp_path.glob("*/checkpoint")) == ["005-k", "006-k"]


def test_folders_that_no_record_names_are_removed(tmp_path: Path) -> None:
    study = optuna.create_study()
    study.add_trial(optuna.create_trial(value=1.0, user_attrs={"key": "000-known"}))
    for name in ("trials/000-known", "trials/007-orphan", "tune-20260101-000000", "report"):
        (tmp_path / name).mkdir(parents=True)
    remove_orphans(tmp_path, study)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"trials", "trials/000-known", "report"}
