"""A study's records as the rows of its report."""

from __future__ import annotations

from typing import Any

import optuna

from sweeps.config.search_space import SpaceConfig
from sweeps.execution.job_messages import TrialJob
from sweeps.execution.optuna_searcher import StudySearch
from sweeps.search.attempt_records import mark_interrupted, queue_interrupted
from sweeps.search.trial_records import best_row, best_sft_row, trial_rows
from tests.sweeps.jobs import trial_job

SPACE = SpaceConfig.model_validate(
    {"mask_ratio": [0.0, 0.2], "accumulation_interval": [1, 2], "learning_rate": [1e-3, 2e-3]}
)


def search_over(study: optuna.Study, *ratios: float) -> StudySearch:
    for ratio in ratios:
        study.enqueue_trial(
            {"mask_ratio": ratio, "accumulation_interval": 2, "learning_rate": 1e-3}
        )
    return StudySearch(study, SPACE, lambda n, point: trial_job(n, point, key=f"k{n}"))


def finished(score: float) -> dict[str, Any]:
    return {"state": "finished", "score": score, "step": 8, "steps": 8, "time_total_s": 3.0}


def test_each_ending_has_its_row(study: optuna.Study) -> None:
    search = search_over(study, 0.0, 0.2, 0.2, 0.2)
    for name in "abcd":
        search.suggest(name)
    search.on_trial_complete("a", {**finished(0.5), "metrics/eval/loss": 1.5})
    search.on_trial_complete("b", {"score": 0.25, "step": 4, "steps": 8})
    search.on_trial_complete("c", error=True)
    search.is_unpromising("d", {"score": 0.3, "step": 2})
    rows = trial_rows(study, seed=7)
    assert [(row.number, row.key, row.state, row.score, row.step) for row in rows] == [
        (0, "k0", "finished", 0.5, 8),
        (1, "k1", "stopped_early", 0.25, 4),
        (2, "k2", "failed", None, 0),
        (3, "k3", "running", 0.3, 2),
    ]
    assert {row.seed for row in rows} == {7}
    row = rows[0]
    assert (row.mask_ratio, row.accumulation_interval, row.learning_rate) == (0.0, 2, 1e-3)
    assert (row.steps, row.seconds, dict(row.metrics)) == (8, 3.0, {"eval/loss": 1.5})


def test_the_method_of_the_sweep_is_its_trials_method(study: optuna.Study) -> None:
    def job(number: int, point: Any) -> TrialJob:
        return trial_job(number, point, method="random")

    StudySearch(study, SPACE, job).suggest("a")
    assert [row.method for row in trial_rows(study, 0)] == ["random"]


def test_a_trial_that_waits_has_no_row(study: optuna.Study) -> None:
    search_over(study, 0.2)
    assert trial_rows(study, seed=0) == ()


def test_an_interrupted_try_gives_way_to_the_one_that_took_it_up(study: optuna.Study) -> None:
    search_over(study, 0.2).suggest("a")
    mark_interrupted(study)
    assert [row.state for row in trial_rows(study, 0)] == ["interrupted"]
    queue_interrupted(study)
    again = search_over(study)
    again.suggest("a")
    assert [(row.number, row.state) for row in trial_rows(study, 0)] == [(0, "running")]
    again.on_trial_complete("a", finished(0.5))
    rows = trial_rows(study, 0)
    assert [(row.number, row.key, row.state) for row in rows] == [(0, "k0", "finished")]


def test_the_best_is_finished_and_the_earlier_of_equals(study: optuna.Study) -> None:
    search = search_over(study, 0.2, 0.0, 0.2, 0.0, 0.2)
    for name in "abcde":
        search.suggest(name)
    for name, score in (("a", 0.5), ("b", 0.4), ("c", 0.5), ("d", 0.4)):
        search.on_trial_complete(name, finished(score))
    search.on_trial_complete("e", {"score": 0.9, "step": 4})  # stopped early: no final score
    rows = trial_rows(study, 0)
    best, control = best_row(rows), best_sft_row(rows)
    assert best is not None
    assert control is not None
    assert (best.number, control.number) == (0, 1)
    assert best_row(()) is None
    assert best_sft_row(rows[:1]) is None
