"""Points trained with several seeds: the sampler hears their mean, once, whatever is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from sweeps.config.load import load_config, parse_config
from sweeps.config.sweep_config import SweepConfig, resolve_paths
from sweeps.execution.job_messages import TrialJob
from sweeps.execution.optuna_searcher import StudySearch
from sweeps.execution.report_data import StudyRecord, search_data
from sweeps.execution.reporting import study_findings
from sweeps.execution.sweep import open_study
from sweeps.report.search_page import page
from sweeps.report.trial_row import score_text
from sweeps.search.attempt_records import STOPPED, mark_interrupted, queue_interrupted
from sweeps.search.pending_trials import SearchSpace, queue_missing
from sweeps.search.point_seeds import PointSeeds
from sweeps.search.retry import queue_failed
from sweeps.search.samplers import DistinctSampler
from sweeps.search.trial_counts import workload
from sweeps.search.trial_records import Records, best_row, label_of, trial_rows
from sweeps.storage.errors import UserError
from tests.sweeps.jobs import suggested, trial_job

pytestmark = pytest.mark.usefixtures("quiet_optuna")
Tree = dict[str, Any]


def configured(tree: Tree, **search: Any) -> SweepConfig:
    given = {"trials": 3, "replicates": 3, "sampler": "random", **search}
    return parse_config({**tree, "seed": 5, "search": given})


def new_study(config: SweepConfig) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    space = config.space_of("sums")
    study.sampler = DistinctSampler(study, space, config.search, config.seed)
    return study


def session(study: optuna.Study, config: SweepConfig) -> StudySearch:
    """What a driver does when it starts, and its searcher."""

    def job(number: int, point: Any) -> TrialJob:
        return trial_job(number, point, key=f"{number}-{sorted(point.items())}")

    seeds = PointSeeds(study, config)
    mark_interrupted(study)
    queue_interrupted(study)
    seeds.settle()
    search = config.search
    return StudySearch(
        study,
        SearchSpace(config.space_of("sums")),
        job,
        starts=len(search.start),
        objectives=config.objectives(),
        constraints=search.constraints,
        seeds=seeds,
    )


def score(point: Tree) -> float:
    return float(point["mask_ratio"]) + (point.get("seed", 5) % 5) / 100


def end(search: StudySearch, name: str, job: TrialJob, **result: Any) -> None:
    ended = {"state": "finished", "score": score(job.point), "step": 8, "steps": 8}
    search.on_trial_complete(name, {**ended, "metrics": {"cost/train_seconds": 2.0}, **result})


def run(study: optuna.Study, config: SweepConfig, kills: frozenset[int] = frozenset()) -> None:
    """One trial at a time until nothing is missing; sessions die while these trials run."""
    asked = 0
    while left := queue_missing(study, config, "sums"):
        search = session(study, config)
        for _ in range(left):
            job = suggested(search, str(asked))
            asked += 1
            if asked in kills:
                break
            end(search, str(asked - 1), job)
        session(study, config)


def told(study: optuna.Study) -> dict[int, float]:
    """What samplers read: values by number."""
    whole = study.get_trials(states=(TrialState.COMPLETE,))
    return {trial.user_attrs["number"]: trial.values[0] for trial in whole}


@pytest.mark.parametrize("sampler", ["random", "tpe", "grid"])
@pytest.mark.parametrize("kills", [frozenset(), frozenset({1, 2, 5, 9})])
def test_the_sampler_hears_the_mean_of_each_point(
    tree: Tree, sampler: str, kills: frozenset[int]
) -> None:
    space = {"mask_ratio": [0.0, 0.3, 0.6], "accumulation_interval": 1, "learning_rate": 1e-3}
    config = configured({**tree, "space": space}, sampler=sampler)
    study = new_study(config)
    assert queue_missing(study, config, "sums") == 9
    run(study, config, kills)
    rows = trial_rows(study, 5)
    own = [row for row in rows if not row.stage]
    assert [row.number for row in rows] == [*range(9)]
    assert len(own) == 3
    assert sorted(row.seed for row in rows) == [5] * 3 + [6] * 3 + [7] * 3
    for row in own:
        assert row.scores == pytest.approx([row.mask_ratio + n / 100 for n in range(3)])
        assert row.score == pytest.approx(row.mask_ratio + 0.01)
        assert row.state == "finished"
    assert told(study) == {row.number: row.score for row in own}
    work = workload(config, "sums", rows)
    assert (work.total, work.done) == (9, 9)


def test_a_lucky_seed_is_not_the_best_point(tree: Tree) -> None:
    config = configured(tree, trials=2, replicates=2, fresh_seeds=2)
    study = new_study(config)
    search = session(study, config)
    for name, value in zip("abcd", (0.9, 0.1, 0.6, 0.6), strict=True):
        end(search, name, suggested(search, name), score=value)
    best = best_row(trial_rows(study, 5))
    assert best is not None
    assert (best.number, best.score, best.scores) == (2, 0.6, (0.6, 0.6))
    assert queue_missing(study, config, "sums") == 2
    for name, value in zip("ef", (0.5, 0.4), strict=True):
        end(search, name, suggested(search, name), score=value)
    rows = trial_rows(study, 5)
    assert best_row(rows) == best
    label = label_of(config, "sums")
    both = "0.600 (mean of 2 seeds) in the search; 0.450 over 2 fresh seeds"
    assert score_text(label, best, rows) == both
    record = StudyRecord(config, "sums", study, rows)
    html = page(search_data(record)).html()
    assert "trial 2, mean of 2 seeds; 0.450 over 2 fresh seeds" in html
    finals, _ = study_findings(record)
    assert finals == {"final/score": 0.6, "final/fresh_seeds_score": pytest.approx(0.45)}


def test_a_point_ends_when_its_last_seed_does(tree: Tree) -> None:
    config = configured(tree, trials=2, replicates=2)
    study = new_study(config)
    search = session(study, config)
    first, second = suggested(search, "a"), suggested(search, "b")
    assert {**first.point, "seed": 6, "stage": "replicate"} == second.point
    end(search, "a", first)
    assert told(study) == {}
    assert queue_missing(study, config, "sums") == 2  # the other point; a and b have begun
    end(search, "b", second)
    assert told(study) == {0: pytest.approx(score(first.point) + 0.005)}


def two_seeds() -> tuple[SweepConfig, optuna.Study, StudySearch]:
    """A search on record of one point with two seeds, which begins."""
    asked = ["seed=5", "search.trials=1", "search.replicates=2"]
    config = resolve_paths(load_config("sweep.yaml", asked))
    study = open_study(config, "sums")
    return config, study, session(study, config)


@pytest.mark.parametrize("kind", ["error", "diverged"])
def test_a_failed_seed_fails_its_point_until_it_is_retried(sweep_files: Path, kind: str) -> None:
    config, study, search = two_seeds()
    first, second = suggested(search, "a"), suggested(search, "b")
    end(search, "a", first)
    state = {"state": "diverged"} if kind == "diverged" else {"state": "failed", "failure": "x"}
    search.on_trial_complete("b", {**state, "score": None})
    rows = trial_rows(study, 5)
    assert [row.state for row in rows] == ["failed", "failed"]
    assert best_row(rows) is None
    # As for a diverged trial: TPE then ranks the point last.
    expected = TrialState.PRUNED if kind == "diverged" else TrialState.FAIL
    assert study.trials[0].state is expected
    assert queue_missing(study, config, "sums") == 0
    assert queue_failed(Records(config)) == {"sums": [0, 1]}
    assert queue_missing(study, config, "sums") == 1  # the first seed is not run again
    search = session(study, config)
    again = suggested(search, "c")
    assert again.point == second.point
    end(search, "c", again)
    assert [row.state for row in trial_rows(study, 5)] == ["finished", "finished"]
    assert told(study) == {0: pytest.approx(score(first.point) + 0.005)}


@pytest.mark.parametrize("stopped", ["a", "b"])
def test_a_point_is_stopped_with_any_of_its_seeds(sweep_files: Path, stopped: str) -> None:
    """It has no mean then, and nothing of it failed."""
    config, study, search = two_seeds()
    for name in "ab":
        job = suggested(search, name)
        if name == stopped:
            search._open[name].set_user_attr(STOPPED, True)
            search.on_trial_complete(name, {"score": 0.1, "step": 4, "steps": 8})
        else:
            end(search, name, job)
    session(study, config)
    rows = {row.number: row.state for row in trial_rows(study, 5)}
    assert rows[0] == "stopped_by_user"
    assert study.trials[0].state is TrialState.PRUNED
    assert best_row(trial_rows(study, 5)) is None
    assert queue_missing(study, config, "sums") == 0
    assert queue_failed(Records(config)) == {"sums": []}


def test_objectives_and_constraints_are_means_too(tree: Tree) -> None:
    objectives = {"objectives": ["score", "seconds"], "constraints": ["seconds <= 2.5"]}
    config = configured(tree, trials=2, replicates=2, **objectives)
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.sampler = DistinctSampler(study, config.space_of("sums"), config.search, 5)
    search = session(study, config)
    for name, seconds in zip("abcd", (1.0, 3.0, 2.0, 4.0), strict=True):
        metrics = {"cost/train_seconds": seconds}
        end(search, name, suggested(search, name), metrics=metrics)
    points = study.get_trials(states=(TrialState.COMPLETE,))
    assert [trial.values[1] for trial in points] == [2.0, 3.0]
    own = [row for row in trial_rows(study, 5) if not row.stage]
    assert [row.violated for row in own] == [(), ("seconds <= 2.5",)]


def test_one_seed_is_the_search_without_replicates(tree: Tree) -> None:
    config = configured(tree, replicates=1)
    study = new_study(config)
    run(study, config)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert [row.scores for row in trial_rows(study, 5)] == [()] * 3


@pytest.mark.parametrize(
    ("search", "says"),
    [
        ({"replicates": {"best": 1, "seeds": 2}}, "use search.fresh_seeds"),
        ({"replicates": 0}, "search.replicates"),
        ({"replicates": 2, "scheduler": {"name": "asha"}}, "expected scheduler.name none"),
        ({"fresh_seeds": -1}, "fresh_seeds"),
        ({"fresh_seeds": "two"}, "fresh_seeds"),
    ],
)
def test_what_cannot_be_is_refused(tree: Tree, search: Tree, says: str) -> None:
    with pytest.raises(UserError, match=says):
        configured(tree, **search)


def test_the_report_shows_the_spread(tree: Tree, tmp_path: Path) -> None:
    config = configured(tree, trials=1)
    study = new_study(config)
    run(study, config)
    record = StudyRecord(config, "sums", study, trial_rows(study, 5))
    html = page(search_data(record)).html()
    assert "spread" in html
    assert "0.010" in html  # of three seeds that are 0.01 apart
