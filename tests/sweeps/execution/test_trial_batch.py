"""Several studies in one Tuner: whose trial comes next, and who hears of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from sweeps.config.search_space import SpaceConfig
from sweeps.execution.optuna_searcher import StudySearch
from sweeps.execution.trial_batch import BatchSearcher, Observers, TrialBatch
from tests.sweeps.jobs import trial_job

SPACE = SpaceConfig.model_validate(
    {"mask_ratio": [0.0, 0.4], "accumulation_interval": [1], "learning_rate": [1e-3]}
)
FINISHED = str(Searcher.FINISHED)


class Heard:
    """An observer that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def began(self, trial: Any) -> None:
        self.told.append(("began", trial.trial_id))

    def checked(self, trial: Any, result: dict[str, Any]) -> None:
        self.told.append(("checked", trial.trial_id))

    def ended(self, trial: Any, result: dict[str, Any], error: bool) -> None:
        self.told.append(("lost" if error else "ended", trial.trial_id))


def batch(domain: str, trials: int, **options: Any) -> TrialBatch:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(study_name=domain, direction="maximize")
    search = StudySearch(study, SPACE, lambda n, point: trial_job(n, point, key=domain), **options)
    observer: Any = Heard()
    return TrialBatch(search, observer, trials)


def drawn(batches: BatchSearcher, *trial_ids: str) -> list[str]:
    """The domains of the next trials."""
    jobs = [batches.suggest(trial_id) for trial_id in trial_ids]
    return [job if isinstance(job, str) else job["job"].key for job in jobs]


def end(batches: BatchSearcher, trial_id: str, score: float = 0.5) -> None:
    batches.on_trial_complete(trial_id, {"score": score, "state": "finished", "done": True})


def test_studies_take_turns_and_stop_at_their_trials() -> None:
    batches = BatchSearcher([batch("math", 2), batch("code", 3)])
    assert drawn(batches, *"abcdef") == ["math", "code", "math", "code", "code", FINISHED]


def test_a_free_place_goes_to_the_study_that_runs_the_fewest() -> None:
    batches = BatchSearcher([batch("math", 9), batch("code", 9)])
    assert drawn(batches, *"abcd") == ["math", "code", "math", "code"]
    end(batches, "b")
    end(batches, "d")
    assert drawn(batches, *"efg") == ["code", "code", "math"]


def test_a_study_that_wants_no_more_leaves_its_places_to_the_others() -> None:
    batches = BatchSearcher([batch("math", 9, stopping=lambda: True), batch("code", 2)])
    assert drawn(batches, *"abc") == ["code", "code", FINISHED]


@pytest.mark.parametrize("error", [False, True])
def test_each_study_is_told_of_its_own_trials_alone(error: bool) -> None:
    math, code = batch("math", 1), batch("code", 1)
    batches = BatchSearcher([math, code])
    observers = Observers(batches)
    drawn(batches, "a", "b")
    trial: Any = SimpleNamespace(trial_id="b", last_result={}, get_error=lambda: "gone")
    observers.on_trial_start(iteration=0, trials=[], trial=trial)
    observers.on_trial_result(iteration=0, trials=[], trial=trial, result={})
    batches.on_trial_complete("b", {"score": 0.25, "state": "finished"}, error=error)
    close = observers.on_trial_error if error else observers.on_trial_complete
    close(iteration=0, trials=[], trial=trial)
    heard: Any = (math.observer, code.observer)
    assert heard[0].told == []
    ending = "lost" if error else "ended"
    assert heard[1].told == [("began", "b"), ("checked", "b"), (ending, "b")]
    assert math.search.told("b") is None
    told = code.search.told("b")
    assert told is not None
    assert told["state"] == ("failed" if error else "finished")


def test_news_of_a_trial_that_never_was_is_passed_over() -> None:
    one = batch("math", 1)
    BatchSearcher([one]).on_trial_complete("unknown")
    assert one.search.told("unknown") is None


def test_scores_reach_the_study_that_asked() -> None:
    math, code = batch("math", 1), batch("code", 1)
    batches = BatchSearcher([math, code])
    drawn(batches, "a", "b")
    end(batches, "a", 0.25)
    end(batches, "b", 0.75)
    for one, score in ((math, 0.25), (code, 0.75)):
        (trial,) = one.search._study.get_trials()
        assert (trial.state, trial.value) == (TrialState.COMPLETE, score)
