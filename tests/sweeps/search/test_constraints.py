"""Constraints on results: samplers learn them, and the best trial keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from typer.testing import CliRunner

from sweeps.cli.app import app
from sweeps.cli.status_view import view
from sweeps.cli.sweep_status import status
from sweeps.config.load import load_config, parse_config, save_config
from sweeps.config.search_config import SearchConfig, excess
from sweeps.config.sweep_config import resolve_paths
from sweeps.execution.export import run_yaml
from sweeps.execution.optuna_searcher import StudySearch
from sweeps.execution.progress import point_text, recorded_point
from sweeps.execution.sweep import open_study
from sweeps.execution.trial_jobs import TrialJobs
from sweeps.search.outcomes import objective_values
from sweeps.search.samplers import DistinctSampler
from sweeps.search.trial_records import Records, best_row, best_sft_row, trial_rows
from sweeps.storage.errors import UserError
from tests.sweeps.jobs import suggested, trial_job

pytestmark = pytest.mark.usefixtures("quiet_optuna")

LIMIT = "seconds <= 1.5"
OVERRIDES = [
    "space.mask_ratio=[0, 0.2]",
    "space.accumulation_interval=1",
    "space.learning_rate=0.001",
    "space.weight_decay=[0.0, 0.1]",
    "search.sampler=grid",
    f"search.constraints=['{LIMIT}']",
]


def test_a_constraint_in_either_direction() -> None:
    config = SearchConfig.model_validate({"constraints": ["seconds<=600", "score >= 2e-1"]})
    assert config.constraints == ("seconds <= 600", "score >= 0.2")
    assert excess("seconds <= 600", 700) == 100 and excess("score >= 0.2", 0.5) < 0


def test_forgetting_is_a_quantity_if_a_text_is_given(tree: dict[str, Any]) -> None:
    metrics = {"forgetting/bits_per_byte": 1.25, "cost/train_seconds": 3.0}
    asked = ("score", "forgetting", "seconds")
    found = objective_values(asked, metrics, 0.5, "")
    assert found == {"score": 0.5, "forgetting": 1.25, "seconds": 3.0}
    assert objective_values(("forgetting",), {}, 0.5, "") is None  # not measured
    tree["search"] = {"objectives": ["score", "forgetting"], "constraints": ["forgetting <= 1.5"]}
    with pytest.raises(UserError, match=r"expected evaluation\.forgetting: FILE"):
        parse_config(tree)
    tree["evaluation"] = {"forgetting": "mini:math/text.jsonl"}
    assert parse_config(tree).objectives() == ("score", "forgetting")


@pytest.fixture
def recorded(sweep_files: Path) -> Any:
    """Four trials; weight decay raises the score and the time, above the limit."""
    config = resolve_paths(load_config("sweep.yaml", OVERRIDES))
    study = open_study(config, "sums")
    save_config(config)
    for point in config.space.grid():
        study.enqueue_trial(point)
    jobs = TrialJobs(config, "sums", study)
    search = StudySearch(study, config.space, jobs.trial, constraints=config.search.constraints)
    for number in range(4):
        run = suggested(search, f"t{number}").run
        last = {
            "state": "finished",
            "score": run.weight_decay + run.method.mask_ratio,
            "metrics/cost/train_seconds": 1 + 10 * run.weight_decay,
            "step": 8,
            "steps": 8,
        }
        search.on_trial_complete(f"t{number}", last)
    return config, study


def test_the_best_trial_keeps_the_constraints(recorded: Any) -> None:
    config, study = recorded
    rows = trial_rows(study, 0)
    assert [row.violated for row in rows] == [
        (LIMIT,) if r.others["weight_decay"] else () for r in rows
    ]
    best, control = best_row(rows), best_sft_row(rows)
    assert best is not None and control is not None
    assert (best.mask_ratio, best.others) == (0.2, {"weight_decay": 0.0})
    assert control.others == {"weight_decay": 0.1}  # the control is only compared with
    assert "weight_decay: 0.0" in run_yaml(config, "sums", best)
    assert point_text(recorded_point(best)).endswith("lr 1.0e-3  weight_decay 0")


def test_status_and_leaderboard_say_so(recorded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = recorded
    said = [line for line in view(status(Records(config))) if isinstance(line, str)]
    assert f"sums: 2 of 4 finished trials violate {LIMIT}" in said
    monkeypatch.setenv("COLUMNS", "200")
    lines = CliRunner().invoke(app, ["leaderboard", "sweep.yaml", *OVERRIDES]).stdout.splitlines()
    assert sum(f"finished, violates {LIMIT}" in line for line in lines) == 2


@pytest.mark.parametrize("name", ["tpe", "gp", "nsga2", "nsga3"])
def test_a_sampler_that_knows_constraints_learns_them(tree: dict[str, Any], name: str) -> None:
    tree["search"] = {"sampler": name, "startup_trials": 4, "constraints": ["seconds <= 0.35"]}
    config = parse_config(tree)
    study = optuna.create_study(direction="maximize")
    study.sampler = DistinctSampler(study, config.space, config.search, seed=0)
    search = StudySearch(study, config.space, trial_job, constraints=config.search.constraints)
    ratios = []
    for number in range(20):
        ratio = float(suggested(search, str(number)).point["mask_ratio"])
        ratios.append(ratio)
        last = {"state": "finished", "score": ratio, "metrics/cost/train_seconds": ratio}
        search.on_trial_complete(str(number), last)
    late = ratios[10:]
    assert sum(ratio < 0.4 for ratio in late) >= len(late) / 2  # without them, high ratios win
