"""What others are compared with runs to its end: no pruner stops plain fine-tuning or a start."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from sweeps.config.search_config import SearchConfig
from sweeps.config.search_space import Point, SpaceConfig
from sweeps.execution.optuna_searcher import StudySearch
from sweeps.search.attempt_records import UNPROMISING, mark_interrupted, queue_interrupted
from sweeps.search.pruners import build_pruner
from sweeps.search.samplers import DistinctSampler
from tests.sweeps.jobs import suggested, trial_job

CHECKS, TRIALS, RUNS = 6, 14, 20
STARTS = [
    {"mask_ratio": 0.0, "accumulation_interval": 1, "learning_rate": 1e-3},
    {"mask_ratio": 0.9, "accumulation_interval": 2, "learning_rate": 1e-3},
]
PRUNERS: dict[str, dict[str, Any]] = {
    "asha": {"reduction_factor": 2},
    "hyperband": {"reduction_factor": 2},
    "median": {},
    "percentile": {"percentile": 50},
    "patient": {"patience": 1},
}
RATIOS = {"low": 0.0, "high": 0.9, "step": 0.1}
RATES = {"low": 1e-4, "high": 1e-2, "log": True}
SPACE = SpaceConfig.model_validate(
    {"mask_ratio": RATIOS, "accumulation_interval": [1, 2], "learning_rate": RATES}
)
METHODS = SpaceConfig.model_validate(
    {
        "method": ["sft", "gmt", "hft"],
        "mask_ratio": [0.2, 0.4],
        "accumulation_interval": [1, 2],
        "learning_rate": RATES,
    }
)

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def begin(
    study: optuna.Study, pruner: str, space: SpaceConfig = SPACE, starts: bool = True
) -> StudySearch:
    search = SearchConfig.model_validate(
        {
            "startup_trials": 2,
            "sampler": "random",
            "scheduler": {"name": pruner, **PRUNERS[pruner]},
            "start": STARTS if starts else [],
        }
    )
    study.sampler = DistinctSampler(study, space, search, seed=1)
    study.pruner = build_pruner(search, CHECKS)
    return StudySearch(
        study,
        space,
        trial_job,
        checks=CHECKS,
        starts=len(search.start),
    )


def score(point: Point, check: int) -> float:
    """Plain fine-tuning is the worst of all, and a start the worst but for it."""
    if point["mask_ratio"] in (0.0, 0.9):
        return 0.1 * float(point["mask_ratio"]) - 1 / check
    return float(point["mask_ratio"]) - 10 * float(point["learning_rate"]) - 0.01 * check


def play(study: optuna.Study, search: StudySearch, seed: int) -> None:
    """All trials, three at a time, with random delays between their checks."""
    clock = random.Random(seed)
    events: list[tuple[float, str, int]] = []
    points: dict[str, Point] = {}

    def start(now: float) -> None:
        if len(points) < TRIALS:
            name = f"t{len(points)}"
            points[name] = suggested(search, name).point
            heapq.heappush(events, (now + clock.expovariate(1.0), name, 1))

    for _ in range(3):
        start(0.0)
    while events:
        now, name, check = heapq.heappop(events)
        result = {"score": score(points[name], check), "step": check, "steps": CHECKS}
        if check == CHECKS:
            search.on_trial_complete(name, {**result, "state": "finished"})
        elif search.is_unpromising(name, result):
            search.on_trial_complete(name, result)
        else:
            heapq.heappush(events, (now + clock.expovariate(1.0), name, check + 1))
            continue
        start(now)


def is_compared(trial: FrozenTrial) -> bool:
    """Whether others are compared with it: plain fine-tuning, or a starting point."""
    ratio = trial.params.get("mask_ratio", 0.0)
    is_sft = ratio == 0 and trial.params.get("method", "sft") == "sft"
    return is_sft or trial.user_attrs["number"] < len(STARTS)


@pytest.mark.parametrize("pruner", PRUNERS)
def test_whatever_the_delays_the_control_finishes(pruner: str) -> None:
    stopped = 0
    for seed in range(RUNS):
        study = optuna.create_study(study_name=f"run {seed}", direction="maximize")
        play(study, begin(study, pruner), seed)
        compared = [trial for trial in study.trials if is_compared(trial)]
        assert len(compared) >= len(STARTS)
        for trial in compared:
            assert trial.state is TrialState.COMPLETE
            assert sorted(trial.intermediate_values) == list(range(1, CHECKS))  # all are told
        stopped += sum(trial.state is TrialState.PRUNED for trial in study.trials)
    assert stopped >= RUNS


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_where_methods_are_searched_half_fine_tuning_is_no_control(pruner: str) -> None:
    study = optuna.create_study(direction="maximize")
    search = begin(study, pruner, METHODS, starts=False)
    ended: dict[str, set[str]] = {"sft": set(), "gmt": set(), "hft": set()}
    for number in range(24):
        method = suggested(search, str(number)).point["method"]
        for check in range(1, CHECKS):
            value = 1.0 if number < 3 else -float(number)
            result = {"score": value, "step": check, "steps": CHECKS}
            if search.is_unpromising(str(number), result):
                search.on_trial_complete(str(number), result)
                break
        else:
            search.on_trial_complete(str(number), {**result, "step": CHECKS, "state": "finished"})
        ended[method].add(study.trials[number].state.name)
    assert ended["sft"] == {"COMPLETE"}
    assert "PRUNED" in ended["gmt"]
    assert "PRUNED" in ended["hft"]


def test_rungs_of_a_control_are_there_for_others_to_pass() -> None:
    study = optuna.create_study(direction="maximize")
    search = begin(study, "asha")
    for number, value in enumerate([0.0, 0.5]):
        search.suggest(str(number))
        assert not search.is_unpromising(str(number), {"score": value, "step": 1, "steps": CHECKS})
    study.enqueue_trial({"mask_ratio": 0.3})
    search.suggest("2")
    assert search.is_unpromising("2", {"score": -1.0, "step": 1, "steps": CHECKS})
    assert [t.system_attrs["completed_rung_0"] for t in study.trials] == [0.0, 0.5, -1.0]


def test_a_verdict_of_an_older_session_does_not_stop_a_control() -> None:
    study = optuna.create_study(direction="maximize")
    begin(study, "asha").suggest("control")
    study._storage.set_trial_user_attr(study.trials[0]._trial_id, UNPROMISING, True)
    mark_interrupted(study)
    queue_interrupted(study)
    search = begin(study, "asha")
    search.suggest("again")
    assert not search.is_unpromising("again", {"score": -9.0, "step": 1, "steps": CHECKS})
    last = {"score": -9.0, "step": CHECKS, "steps": CHECKS, "state": "finished"}
    search.on_trial_complete("again", last)
    assert study.trials[-1].state is TrialState.COMPLETE
    assert study.trials[-1].user_attrs["number"] == 0
