"""The bridge to Optuna, over real studies: every ending told as what it is, nothing run twice."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import optuna
import pytest
from hypothesis import given, settings
from optuna.trial import TrialState

from sweeps.config.search_space import Point, SpaceConfig
from sweeps.execution.job_messages import TrialJob
from sweeps.execution.optuna_searcher import StudySearch
from sweeps.search.attempt_records import finished_trials, mark_interrupted, queue_interrupted
from sweeps.search.outcomes import outcome
from sweeps.search.trial_records import trial_rows
from tests.sweeps.jobs import suggested, trial_job

SPACE = SpaceConfig.model_validate(
    {
        "mask_ratio": {"low": 0.0, "high": 0.9, "step": 0.1},
        "accumulation_interval": [1, 2],
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    }
)


def job(number: int, point: Point) -> TrialJob:
    return trial_job(number, point, key=f"{number:03d}-{point['learning_rate']:.17g}")


def search_over(study: optuna.Study) -> StudySearch:
    return StudySearch(study, SPACE, job, checks=8)


def last(**changes: Any) -> dict[str, Any]:
    """A run's last result as Tune gives it to its searchers: flat."""
    result = {"state": "finished", "score": 0.75, "step": 8, "steps": 8, "time_total_s": 2.5}
    return {**result, "metrics/eval/sums/accuracy": 0.75, **changes}


def at(step: int, score: float) -> dict[str, Any]:
    """The result of a validation check."""
    return {"score": score, "step": step, "steps": 8}


def test_a_suggestion_carries_its_point_and_is_recorded(study: optuna.Study) -> None:
    first = suggested(search_over(study), "a")
    (trial,) = study.trials
    assert first.number == 0
    assert first.point == SPACE.point(trial.params)
    assert trial.user_attrs == {"number": 0, "key": first.key, "method": "gmt"}
    assert trial.state is TrialState.RUNNING


def test_a_finished_trial_is_complete_with_its_score(study: optuna.Study) -> None:
    search = search_over(study)
    search.suggest("a")
    search.is_unpromising("a", at(4, 0.5))
    search.on_trial_complete("a", last())
    (trial,) = study.trials
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.75)
    assert trial.intermediate_values == {4: 0.5}
    assert trial.user_attrs["outcome"] == {
        "step": 8,
        "steps": 8,
        "state": "finished",
        "score": 0.75,
        "seconds": 2.5,
        "metrics": {"eval/sums/accuracy": 0.75},
        "failure": "",
        "kind": "",
    }


def test_a_trial_stopped_early_is_pruned_at_its_last_check(study: optuna.Study) -> None:
    search = search_over(study)
    search.suggest("a")
    search.is_unpromising("a", at(2, 0.5))
    search.on_trial_complete("a", at(4, 0.4))
    (trial,) = study.trials
    assert trial.state is TrialState.PRUNED
    assert trial.intermediate_values == {2: 0.5, 4: 0.4}
    assert trial.user_attrs["outcome"]["state"] == "stopped_early"


@pytest.mark.parametrize(
    ("result", "error", "why"),
    [
        ({"state": "failed", "failure": "out of memory"}, False, "out of memory"),
        (last(state="diverged", score=None), False, "loss was not a finite number"),
        (last(score=math.nan), False, "its score was nan"),
        (last(score=math.inf), False, "its score was inf"),
        (None, True, "its workers were lost"),
        ({**at(4, 0.5), "failure": "the group is gone"}, True, "the group is gone"),
    ],
)
def test_a_trial_that_fails_says_why(
    study: optuna.Study, result: dict[str, Any] | None, error: bool, why: str
) -> None:
    search = search_over(study)
    search.suggest("a")
    search.on_trial_complete("a", result, error=error)
    (trial,) = study.trials
    state = TrialState.PRUNED if "finite" in why or "score was" in why else TrialState.FAIL
    assert (trial.state, trial.value) == (state, None)
    assert [row.state for row in trial_rows(study, seed=0)] == ["failed"]
    assert why in trial.user_attrs["outcome"]["failure"]
    assert finished_trials(study) == [trial]  # failed for good: not run again


def test_what_is_not_finite_never_reaches_optuna(study: optuna.Study) -> None:
    search = search_over(study)
    search.suggest("a")
    search.is_unpromising("a", at(2, math.nan))
    search.is_unpromising("a", {"step": 3})
    search.on_trial_complete("a", last(**{"metrics/eval/loss": math.nan}))
    (trial,) = study.trials
    assert trial.intermediate_values == {}
    assert trial.user_attrs["outcome"]["metrics"] == {"eval/sums/accuracy": 0.75}


def test_repeated_and_unknown_reports_are_harmless(study: optuna.Study) -> None:
    search = search_over(study)
    search.suggest("a")
    search.is_unpromising("a", at(4, 0.5))
    search.is_unpromising("a", at(4, 0.6))  # its group was lost and started again
    search.is_unpromising("b", at(4, 0.6))
    search.on_trial_complete("a", at(4, 0.5))
    search.on_trial_complete("a", last())
    search.on_trial_complete("b", last())
    (trial,) = study.trials
    assert (trial.state, trial.intermediate_values) == (TrialState.PRUNED, {4: 0.5})


def test_an_outcome_takes_nested_metrics_too() -> None:
    assert outcome({"metrics": {"cost/train_seconds": 1.0}}, "finished")["metrics"] == {
        "cost/train_seconds": 1.0
    }


def test_interrupted_trials_are_queued_again_once_at_the_same_number(study: optuna.Study) -> None:
    search = search_over(study)
    first, second = suggested(search, "a"), suggested(search, "b")
    search.on_trial_complete("a", last())
    # The session dies here, with "b" running; the next one finds it.
    assert [trial.number for trial in mark_interrupted(study)] == [1]
    assert mark_interrupted(study) == []
    assert queue_interrupted(study) == 1
    assert queue_interrupted(study) == 0  # also by a session that died before it asked
    assert len(finished_trials(study)) == 1
    again = suggested(search_over(study), "c")
    assert (again.number, again.point, again.key) == (1, second.point, second.key)
    assert again.key != first.key


def test_a_trial_interrupted_twice_keeps_its_number(study: optuna.Study) -> None:
    key = suggested(search_over(study), "a").key
    for _ in range(2):
        mark_interrupted(study)
        assert queue_interrupted(study) == 1
        again = suggested(search_over(study), "a")
        assert (again.number, again.key) == (0, key)
    search = search_over(study)
    fresh = suggested(search, "b")
    assert fresh.number == 1  # the next one, however many tries there were


def test_a_session_killed_while_it_drew_the_point_loses_no_starting_point(
    study: optuna.Study,
) -> None:
    study.enqueue_trial({"mask_ratio": 0.2, "learning_rate": 2e-3})
    study.ask()
    mark_interrupted(study)
    assert queue_interrupted(study) == 1
    again = suggested(search_over(study), "a")
    assert again.number == 0
    assert (again.point["mask_ratio"], again.point["learning_rate"]) == (0.2, 2e-3)


@pytest.mark.parametrize("halts", [False, True])
def test_what_a_trial_came_to_is_decided_once(study: optuna.Study, halts: bool) -> None:
    stopping: list[bool] = []
    search = StudySearch(study, SPACE, job, checks=8, stopping=lambda: bool(stopping))
    search.suggest("a")
    search.suggest("b")
    if halts:
        stopping.append(True)
    search.on_trial_complete("a", at(4, 0.5))
    search.on_trial_complete("b", last())
    stopping.append(True)  # between Tune's call of its searcher and that of its callbacks
    told = search.told("a")
    assert told is None if halts else told is not None and told["state"] == "stopped_early"
    assert search.told("a") is None
    assert (search.told("b") or {})["state"] == "finished"


@pytest.mark.parametrize("told", [TrialState.PRUNED, TrialState.FAIL])
def test_tpe_learns_where_trials_diverge(told: TrialState) -> None:
    """Told as FAIL, which is what would have it draw such points again and again."""
    sampler = optuna.samplers.TPESampler(n_startup_trials=10, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    search = search_over(study)
    diverged = 0
    for number in range(60):
        rate = float(suggested(search, str(number)).point["learning_rate"])
        if rate < 1e-3:  # half of the range, and the best end is beside the other half
            score = 0.5 + 0.1 * math.log10(rate)
            search.on_trial_complete(str(number), last(score=score))
            continue
        diverged += number >= 20
        if told is TrialState.PRUNED:
            search.on_trial_complete(str(number), last(state="diverged", score=None))
        else:
            study.tell(number, state=told)
    assert diverged <= 20 if told is TrialState.PRUNED else diverged == 40


NUMBERS = st.one_of(st.none(), st.floats(-1, 1), st.sampled_from([math.nan, math.inf, -math.inf]))
RESULTS = st.fixed_dictionaries(
    {"score": NUMBERS, "step": st.integers(1, 8), "steps": st.just(8)},
    optional={
        "state": st.sampled_from(["finished", "failed", "diverged"]),
        "failure": st.just("out of memory"),
    },
)


def expected(result: dict[str, Any] | None, error: bool) -> TrialState:
    """What is true of a trial, told without a look at the code."""
    result = result or {}
    number = result.get("score") is not None
    if result.get("state") == "diverged" or (number and not math.isfinite(result["score"])):
        return TrialState.PRUNED  # a verdict on the point
    if error or not number or result.get("state") == "failed":
        return TrialState.FAIL
    return TrialState.COMPLETE if result.get("state") == "finished" else TrialState.PRUNED


@settings(max_examples=60, deadline=None)
@given(
    checks=st.lists(RESULTS, max_size=4),
    result=st.one_of(st.none(), RESULTS),
    error=st.booleans(),
    ends=st.booleans(),
)
def test_every_ending_is_told_as_what_it_is(
    checks: list[dict[str, Any]], result: dict[str, Any] | None, error: bool, ends: bool
) -> None:
    study = optuna.create_study(direction="maximize")
    search = search_over(study)
    search.suggest("a")
    for check in checks:
        search.is_unpromising("a", check)
        search.is_unpromising("a", check)
    if ends:
        search.on_trial_complete("a", result, error=error)
        (trial,) = study.trials
        assert trial.state is expected(result, error)
        said = trial.user_attrs["outcome"]
        failed = trial.state is TrialState.FAIL or said["kind"] == "diverged"
        assert bool(said["failure"]) == failed == (said["state"] == "failed")
        assert mark_interrupted(study) == []
        assert finished_trials(study) == [trial]
        assert queue_interrupted(study) == 0
    else:  # the session is gone: it is not over, and queued again
        assert [each.number for each in mark_interrupted(study)] == [0]
        assert finished_trials(study) == []
        assert queue_interrupted(study) == 1
    for trial in study.trials:
        values = [*(trial.values or []), *trial.intermediate_values.values()]
        assert all(math.isfinite(value) for value in values)
        assert trial.state is not TrialState.RUNNING
        if trial.state is TrialState.COMPLETE:
            assert trial.value == (result or {})["score"]
