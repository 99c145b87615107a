"""Early stopping: checks are counted, not updates, and a killed session changes no verdict."""

from __future__ import annotations

import random
from typing import Any, cast

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from sweeps.config.search_config import SearchConfig
from sweeps.config.search_space import Point, SpaceConfig
from sweeps.execution.optuna_searcher import StudySearch
from sweeps.execution.trial_batch import BatchSearcher, TrialBatch
from sweeps.execution.tuner import EarlyStopping
from sweeps.search.attempt_records import mark_interrupted, queue_interrupted
from sweeps.search.pruners import build_pruner
from tests.sweeps.jobs import suggested, trial_job

CHECKS, TRIALS = 8, 14
SPACE = SpaceConfig.model_validate(
    {"mask_ratio": [0.2], "accumulation_interval": [1, 2, 4], "learning_rate": 1e-3}
)
PRUNERS: dict[str, dict[str, Any]] = {
    "asha": {"reduction_factor": 2},
    "hyperband": {"reduction_factor": 2},
    "median": {},
    "percentile": {"percentile": 50},
    "patient": {"patience": 1},
}


def config(name: str, **changes: Any) -> SearchConfig:
    scheduler = {"name": name, **PRUNERS.get(name, {}), **changes}
    return SearchConfig.model_validate({"startup_trials": 2, "scheduler": scheduler})


class Session:
    """Two trials side by side over a study, check by check, as Tune would run them.

    Trials are named by the order in which they were first started; ``names`` gives the name of
    each trial number, which tells a later session whom it took up again.
    """

    def __init__(self, study: optuna.Study, name: str, names: dict[int, int]) -> None:
        self.study, self.names = study, names
        study.pruner = build_pruner(config(name), CHECKS)
        self.search = StudySearch(study, SPACE, trial_job, checks=CHECKS)
        self.running: dict[int, int] = {}  # trial to its last check
        self.ids: dict[int, str] = {}

    def start(self) -> int:
        """One more trial."""
        trial_id = f"t{len(self.ids)}"
        number = suggested(self.search, trial_id).number
        name = self.names.setdefault(number, len(self.names))
        self.running[name], self.ids[name] = 0, trial_id
        return name

    def check(self, name: int) -> None:
        """The next check of a trial: it goes on, is stopped, or finishes."""
        self.running[name] += 1
        step, trial_id = self.running[name], self.ids[name]
        result = {"score": score(name, step), "step": step, "steps": CHECKS}
        if step == CHECKS:
            self.search.on_trial_complete(trial_id, {**result, "state": "finished"})
        elif self.search.is_unpromising(trial_id, result):
            self.search.on_trial_complete(trial_id, result)
        else:
            return
        del self.running[name]


def score(name: int, step: int) -> float:
    """A learning curve: the same for a trial whenever it runs."""
    chance = random.Random(name)
    height, noise = chance.random(), random.Random(100 * name + step).random()
    return height * (1 - 0.7**step) + 0.1 * noise


def run(
    study: optuna.Study, name: str, kills: int = 0, trials: int = TRIALS
) -> dict[int, tuple[str, int]]:
    """A whole search, killed now and then; each trial's state and last check."""
    session, started = Session(study, name, {}), 0
    dice = random.Random(5)  # whose check comes next is chance, the same with and without kills
    moments = set(random.Random(kills).sample(range(2, 12), kills))
    moment = 0
    while started < trials or session.running:
        moment += 1
        if moment in moments:
            session = killed(session, name)
        while len(session.running) < 2 and started < trials:
            session.start()
            started += 1
        session.check(dice.choice(sorted(session.running)))
    return {
        session.names[trial.user_attrs["number"]]: (
            trial.state.name,
            max(trial.intermediate_values),
        )
        for trial in study.trials
        if trial.state is not TrialState.FAIL
    }


def killed(session: Session, name: str) -> Session:
    """The session dies; the next one goes on from the trials' checkpoints."""
    before = session.running
    mark_interrupted(session.study)
    assert queue_interrupted(session.study) == len(before)
    after = Session(session.study, name, session.names)
    for _ in before:
        trial = after.start()
        if before[trial]:  # a trial that goes on reports its last check again
            after.running[trial] = before[trial] - 1
            after.check(trial)
    assert after.running == before
    return after


@pytest.fixture(autouse=True)
def quiet(request: pytest.FixtureRequest) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    request.addfinalizer(lambda: optuna.logging.set_verbosity(before))


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", PRUNERS)
def test_each_pruner_stops_some_and_never_the_best(name: str) -> None:
    ended = run(optuna.create_study(direction="maximize"), name)
    states = [state for state, _ in ended.values()]
    assert set(ended) == set(range(TRIALS))
    assert states.count("PRUNED") >= 2
    assert states.count("COMPLETE") >= 1
    finished = max(score(n, CHECKS) for n, (state, _) in ended.items() if state == "COMPLETE")
    assert finished == max(score(n, CHECKS) for n in range(TRIALS))


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", ["asha", "median", "percentile", "patient"])
@pytest.mark.parametrize("kills", [1, 2, 5])
def test_a_killed_search_decides_as_one_that_was_not(name: str, kills: int) -> None:
    whole = run(optuna.create_study(direction="maximize"), name)
    assert run(optuna.create_study(direction="maximize"), name, kills) == whole


def test_rungs_survive_in_a_file(study: optuna.Study) -> None:
    whole = run(optuna.create_study(direction="maximize"), "asha", trials=5)
    assert run(study, "asha", kills=1, trials=5) == whole


def test_a_verdict_outlives_a_kill_before_it_was_told(study: optuna.Study) -> None:
    session = Session(study, "asha", {})
    good, bad = session.start(), session.start()
    first = {"score": 0.9, "step": 1, "steps": CHECKS}
    assert not session.search.is_unpromising(session.ids[good], first)
    assert session.search.is_unpromising(session.ids[bad], {**first, "score": 0.1})
    mark_interrupted(study)  # killed here, before Tune has stopped it
    queue_interrupted(study)
    after = Session(study, "asha", session.names)
    assert [after.start(), after.start()] == [good, bad]
    assert not after.search.is_unpromising(after.ids[good], first)
    assert after.search.is_unpromising(after.ids[bad], {**first, "score": 0.1})


@pytest.mark.parametrize("updates", [5, 8, 16, 64, 100])
def test_checks_are_counted_not_updates(updates: int) -> None:
    """The same share of the examples is the same check, whatever the accumulation interval."""
    from sweeps.finetune.optimizers import check_steps

    study = optuna.create_study(direction="maximize")
    search = StudySearch(study, SPACE, trial_job, checks=CHECKS)
    search.suggest("a")
    reported = check_steps(updates, CHECKS)
    for step in reported[:-1]:
        search.is_unpromising("a", {"score": 0.5, "step": step, "steps": updates})
    (trial,) = study.trials
    seen = list(trial.intermediate_values)
    assert len(seen) == len(reported) - 1
    assert seen == sorted(seen)
    assert set(seen) <= set(range(1, CHECKS))
    if updates >= CHECKS:
        assert seen == list(range(1, CHECKS))


@pytest.mark.parametrize("name", ["asha", "hyperband", "median", "percentile"])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_nobody_is_stopped_before_the_grace_checks(name: str) -> None:
    study = optuna.create_study(direction="maximize")
    study.pruner = build_pruner(config(name, grace_checks=4), CHECKS)
    search = StudySearch(study, SPACE, trial_job, checks=CHECKS)
    stopped = []
    for number in range(12):
        trial_id = str(number)
        search.suggest(trial_id)
        for step in range(1, CHECKS):
            result = {"score": 1.0 - number / 20, "step": step, "steps": CHECKS}
            if search.is_unpromising(trial_id, result):
                search.on_trial_complete(trial_id, result)
                stopped.append(step)
                break
        else:
            last = {**result, "step": CHECKS, "state": "finished"}
            search.on_trial_complete(trial_id, last)
    assert stopped
    assert min(stopped) >= 4


def test_tune_is_told_to_stop_what_is_hopeless() -> None:
    study = optuna.create_study(direction="maximize")
    session = Session(study, "asha", {})
    observer: Any = None
    batches = BatchSearcher([TrialBatch(session.search, observer, trials=2)])
    scheduler = EarlyStopping(batches)
    controller = cast("TuneController", None)
    ids = ["first", "second"]
    for trial_id in ids:
        batches.suggest(trial_id)

    def decision(trial_id: str, value: float) -> str:
        trial = cast("Trial", type("Stub", (), {"trial_id": trial_id}))
        result = {"score": value, "step": 1, "steps": CHECKS}
        return scheduler.on_trial_result(controller, trial, result)

    assert decision(ids[0], 0.9) == TrialScheduler.CONTINUE
    assert decision(ids[1], 0.1) == TrialScheduler.STOP
    assert decision("unknown", 0.1) == TrialScheduler.CONTINUE


def test_replicates_are_neither_stopped_nor_a_measure_for_others() -> None:
    class Replicated:
        def suggest(self, trial: optuna.Trial) -> Point:
            trial.suggest_categorical("stage", ("replicate",))
            return {}

    study = optuna.create_study(direction="maximize")
    session = Session(study, "asha", {})
    session.check(session.start())
    search = StudySearch(study, Replicated(), trial_job, checks=CHECKS)
    search.suggest("r")
    assert not search.is_unpromising("r", {"score": -1.0, "step": 1, "steps": CHECKS})
    assert study.trials[-1].intermediate_values == {}
