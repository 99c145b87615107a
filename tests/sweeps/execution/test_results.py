"""The Python entry point, and the results that it opens without running anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import sweeps
from sweeps import load_config, open_results, run
from sweeps.config.load import save_config
from sweeps.config.sweep_config import resolve_paths
from sweeps.storage.errors import UserError
from sweeps.storage.trial_files import EVENTS_FILE
from tests.sweeps.played import DIVERGED, FINISHED, OOM, STOPPED, play, trial_folders


def test_the_package_offers_three_names_and_imports_nothing_for_them() -> None:
    names = ["load_config", "open_results", "run"]
    assert sweeps.__all__ == names
    assert [door.__name__ for door in (load_config, open_results, run)] == names
    with pytest.raises(AttributeError, match="has no attribute 'tune'"):
        _ = sweeps.tune
    code = "import sweeps, sys; print({'ray', 'torch', 'optuna'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_a_table_of_trials_with_their_points_states_and_metrics(sweep_files: Path) -> None:
    play(FINISHED | {"metrics/eval/x": 0.5}, OOM, STOPPED, source="sweep.yaml")
    results = open_results("sweep.yaml")
    table = results.dataframe()
    assert list(table["state"]) == ["finished", "failed", "stopped_early"]
    assert list(table["domain"]) == ["sums"] * 3
    assert table.loc[0, "eval/x"] == 0.5
    assert {"mask_ratio", "accumulation_interval", "learning_rate", "score"} <= set(table)
    assert "stopped_early" in repr(results)
    assert f"all {table.shape[1]} columns: dataframe()" in repr(results)
    assert max(map(len, repr(results).splitlines())) <= 120
    assert results._repr_html_().startswith("<table")


def test_the_best_trial_comes_with_a_configuration_that_runs_alone(sweep_files: Path) -> None:
    config = play(FINISHED | {"score": 0.25}, FINISHED)
    results = open_results(sweep_files / "runs" / "small")
    best = results.best("sums")
    assert best is not None and (best.trial, best.score) == (1, 0.5)
    assert yaml.safe_load(best.config)["folder"] == "runs/small-sums"
    assert best.model is None
    (trial_folders(config)[1] / "model").mkdir()
    kept = results.best("sums")
    assert kept is not None and kept.model == trial_folders(config)[1] / "model"


def test_without_a_finished_trial_there_is_no_best(sweep_files: Path) -> None:
    play(OOM, DIVERGED)
    results = open_results("sweep.yaml")
    numbers = ["mask_ratio", "accumulation_interval", "learning_rate", "score", "seconds"]
    assert {str(results.dataframe()[name].dtype) for name in numbers} <= {"float64", "int64"}
    assert results.best("sums") is None
    assert results.failures["sums/0"] == "CUDA out of memory"
    assert "loss is nan" in results.failures["sums/1"]


def test_the_history_of_a_trial_has_one_row_per_step(sweep_files: Path) -> None:
    config = play(FINISHED)
    (trial_folders(config)[0] / EVENTS_FILE).write_text(
        '{"kind": "step", "time": 1.0, "step": 1, "metrics": {"train/loss": 2.0}}\n'
        '{"kind": "step", "time": 2.0, "step": 2, "metrics": {"train/loss": 1.0}}\n'
        '{"kind": "step", "time": 3.0, "step": 2, "metrics": {"train/loss": 1.5, "eval/x": 0.5}}\n'
        '{"kind": "step", "time": 4.0, "st'
    )
    history = open_results("sweep.yaml").history("sums", 0)
    assert list(history["step"]) == [1, 2]
    assert list(history["train/loss"]) == [2.0, 1.5]
    assert history["eval/x"].tolist()[1] == 0.5


def test_what_is_not_there_is_named(sweep_files: Path) -> None:
    with pytest.raises(UserError, match="no sweep named 'small'"):
        open_results("sweep.yaml")
    (sweep_files / "runs" / "small").mkdir(parents=True)
    save_config(resolve_paths(load_config("sweep.yaml")))  # as a sweep does that then starts Ray
    with pytest.raises(UserError, match=r"stopped before its first trial.* resume "):
        open_results("sweep.yaml")
    play(FINISHED)
    results = open_results("sweep.yaml")
    with pytest.raises(UserError, match=r"no domain 'sum' .*did you mean 'sums'"):
        results.best("sum")
    with pytest.raises(UserError, match="has no trial 7; its trials: 0"):
        results.history("sums", 7)
