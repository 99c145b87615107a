"""What a search still has to run: a sampler's trials, a grid's points, replicates of the best."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from sweeps.config.load import parse_config
from sweeps.config.sweep_config import SweepConfig
from sweeps.execution.job_messages import TrialJob
from sweeps.execution.optuna_searcher import StudySearch
from sweeps.execution.report_data import StudyRecord, search_data
from sweeps.search.attempt_records import mark_interrupted, queue_interrupted
from sweeps.search.design import FRESH_SEEDS_FROM
from sweeps.search.pending_trials import SearchSpace, queue_missing
from sweeps.search.trial_counts import workload
from sweeps.search.trial_records import best_row, best_sft_row, own_rows, trial_rows
from sweeps.storage.errors import UserError
from tests.sweeps.jobs import suggested, trial_job

Tree = dict[str, Any]
METHODS = {
    "method": ["sft", "gmt", "hft"],
    "mask_ratio": [0.2, 0.4],
    "accumulation_interval": [1, 2],
    "learning_rate": 1e-3,
}


def changed(tree: Tree, search: Tree, **changes: Any) -> SweepConfig:
    return parse_config({**tree, "search": {"trials": 3, **search}, **changes})


def new_study(config: SweepConfig) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(sampler=sampler, direction="maximize")


def run(study: optuna.Study, config: SweepConfig, count: int, first: float = 0.0) -> None:
    """Trials to their end; their scores rise with their numbers."""
    search = searcher(study, config)
    for index in range(count):
        score = first + suggested(search, str(index)).number / 100
        search.on_trial_complete(str(index), {"score": score, "state": "finished", "step": 1})


def searcher(study: optuna.Study, config: SweepConfig) -> StudySearch:
    def job(number: int, point: Any) -> TrialJob:
        key = f"{number}-{sorted(point.items())}"
        return trial_job(number, point, key=key)

    return StudySearch(study, SearchSpace(config.space_of("sums")), job)


def test_a_sampler_draws_what_is_left(tree: Tree) -> None:
    config = changed(tree, {"sampler": "random"})
    study = new_study(config)
    assert queue_missing(study, config, "sums") == 3
    run(study, config, 2)
    assert queue_missing(study, config, "sums") == 1
    searcher(study, config).suggest("killed")
    assert queue_missing(study, config, "sums") == 1


def test_a_grid_is_complete_when_each_point_has_ended_once(tree: Tree) -> None:
    config = changed(tree, {"sampler": "grid"}, space=METHODS)
    study = new_study(config)
    assert config.search_trials("sums") == 2 + 4 + 2
    assert queue_missing(study, config, "sums") == 8
    assert queue_missing(study, config, "sums") == 8  # queued once
    run(study, config, 3)
    search = searcher(study, config)
    search.suggest("failing")
    search.on_trial_complete("failing", error=True)
    search.suggest("killed")
    mark_interrupted(study)
    queue_interrupted(study)
    assert queue_missing(study, config, "sums") == 4
    run(study, config, 4)
    assert queue_missing(study, config, "sums") == 0
    rows = trial_rows(study, 0)
    points = {(r.method, r.mask_ratio, r.accumulation_interval) for r in rows}
    assert points == {
        (method, ratio, interval)
        for interval in (1, 2)
        for method, ratio in (("sft", 0.0), ("gmt", 0.2), ("gmt", 0.4), ("hft", 0.0))
    }
    assert len(rows) == 8


@pytest.mark.parametrize(
    ("search", "space", "words"),
    [
        ({"sampler": "grid"}, {}, "learning_rate: the sampler grid requires a finite range"),
        ({"sampler": "grid", "start": [{"mask_ratio": 0.1}]}, {}, "expected no start"),
        ({"sampler": "nsga2", "startup_trials": 1}, {}, "2 or more"),
        ({"objectives": ["seconds"]}, {}, "expected score first"),
        ({"objectives": ["score", "score"]}, {}, "no duplicates"),
        (
            {"objectives": ["score", "seconds"], "scheduler": {"name": "asha"}},
            {},
            "expected scheduler.name none",
        ),
        ({"scheduler": {"name": "asha", "reduction_factor": 1}}, {}, "reduction_factor"),
        ({}, {**METHODS, "mask_ratio": [0.0, 0.2]}, "called sft in a space with 'method'"),
        (
            {},
            {**METHODS, "method": ["gmt", "gmt"]},
            "gmt is given twice: expected each",
        ),
        ({}, {**METHODS, "method": ["gtm"]}, "gmt"),
        ({"start": [{"method": "random"}]}, METHODS, "expected one of sft, gmt, hft"),
        ({"start": [{"method": "hft", "mask_ratio": 0.2}]}, METHODS, "hft has no mask_ratio"),
        ({"start": [{"method": "gmt"}]}, {}, "space.method is not given"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tree: Tree, search: Tree, space: Tree, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        changed(tree, search, space=space or tree["space"])


def test_kept_fraction_must_be_measured(tree: Tree) -> None:
    training = {**tree["training"], "statistics_every": 0}
    with pytest.raises(UserError, match="kept_fraction is not measured"):
        changed(tree, {"objectives": ["score", "kept_fraction"]}, training=training)


def test_the_best_are_run_again_with_other_seeds_and_choose_nothing(tree: Tree) -> None:
    config = changed(tree, {"sampler": "random", "fresh_seeds": {"best": 2, "seeds": 3}}, seed=5)
    study = new_study(config)
    run(study, config, 3)
    chosen = best_row(trial_rows(study, 5))
    assert queue_missing(study, config, "sums") == 6
    assert queue_missing(study, config, "sums") == 6  # queued once
    run(study, config, 5, first=10.0)  # by luck, each better than what the search found
    searcher(study, config).suggest("killed")
    mark_interrupted(study)
    queue_interrupted(study)
    run(study, config, 1, first=10.0)
    assert queue_missing(study, config, "sums") == 0
    rows = trial_rows(study, 5)
    again = [row for row in rows if row.stage == "fresh"]
    assert best_row(rows) == chosen
    assert chosen is not None
    assert chosen.seed == 5
    seeds = {5 + FRESH_SEEDS_FROM + index for index in range(3)}
    for row in sorted(own_rows(rows), key=lambda row: -(row.score or 0.0))[:2]:
        assert {other.seed for other in again if other.same_point(row)} == seeds
    data = search_data(StudyRecord(config, "sums", study, rows))
    assert (len(data.rows), len(data.replicates)) == (3, 6)


def test_a_search_that_grows_counts_its_own_trials_only(tree: Tree) -> None:
    config = changed(tree, {"sampler": "tpe", "fresh_seeds": {"best": 1, "seeds": 2}})
    study = new_study(config)
    run(study, config, 3)
    assert queue_missing(study, config, "sums") == 2
    run(study, config, 2)
    grown = changed(tree, {"sampler": "tpe", "trials": 5})
    assert queue_missing(study, grown, "sums") == 2


def left(study: optuna.Study, config: SweepConfig) -> int:
    """What `status` and `plan` say is left."""
    return workload(config, "sums", trial_rows(study, config.seed)).left


def test_a_search_with_fewer_points_than_are_to_be_repeated_is_complete_all_the_same(
    tree: Tree,
) -> None:
    config = changed(tree, {"sampler": "random", "fresh_seeds": {"best": 4, "seeds": 2}})
    study = new_study(config)
    assert left(study, config) == 3 + 4 * 2  # at most
    run(study, config, 3)
    assert left(study, config) == queue_missing(study, config, "sums") == 3 * 2
    run(study, config, 3 * 2)
    assert left(study, config) == queue_missing(study, config, "sums") == 0


def test_replicates_on_record_are_no_trials_of_a_search_that_grows(tree: Tree) -> None:
    config = changed(tree, {"sampler": "random", "fresh_seeds": {"best": 1, "seeds": 2}})
    study = new_study(config)
    run(study, config, 3)
    queue_missing(study, config, "sums")
    run(study, config, 2)
    assert left(study, config) == 0
    assert left(study, changed(tree, {"sampler": "random", "trials": 5})) == 2


def test_half_fine_tuning_is_no_control(tree: Tree) -> None:
    config = changed(tree, {"sampler": "grid"}, space=METHODS)
    study = new_study(config)
    queue_missing(study, config, "sums")
    run(study, config, 8)
    control = best_sft_row(trial_rows(study, 0))
    assert control is not None
    assert control.method == "sft"
    assert {t.state for t in study.trials} == {TrialState.COMPLETE}
