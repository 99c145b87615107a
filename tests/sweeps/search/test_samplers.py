"""The samplers by name: seeded by a trial's number, no point twice, and able to search."""

from __future__ import annotations

import optuna
import pytest

from sweeps.config.search_config import SearchConfig
from sweeps.config.search_space import Point, SpaceConfig
from sweeps.execution.optuna_searcher import StudySearch
from sweeps.search.samplers import DistinctSampler, build_sampler
from sweeps.storage.errors import UserError
from tests.sweeps.jobs import suggested, trial_job

pytestmark = pytest.mark.usefixtures("quiet_optuna")

SPACE = SpaceConfig.model_validate(
    {
        "mask_ratio": {"low": 0.0, "high": 0.9, "step": 0.1},
        "accumulation_interval": [1, 2],
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    }
)
CONDITIONAL = SpaceConfig.model_validate(
    {
        "method": ["sft", "gmt", "random", "hft"],
        "mask_ratio": {"low": 0.1, "high": 0.9, "step": 0.1},
        "accumulation_interval": [1, 2],
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    }
)
OWN = "optuna.samplers:TPESampler"
NAMES = ["tpe", "random", "qmc", "gp", "nsga2", "nsga3", "grid", OWN]


def draw(
    name: str, seed: int, space: SpaceConfig, count: int = 6, *, resumed: bool = False
) -> list[Point]:
    """The points of a study that prefers high ratios; past the start-up, learnt ones.

    ``resumed``: with a sampler of its own for each trial, as of a session that begins there.
    """
    config = SearchConfig.model_validate({"sampler": name, "startup_trials": 4})
    study = optuna.create_study(direction="maximize")
    points: list[Point] = []
    for _ in range(count):
        if resumed or not points:
            study.sampler = DistinctSampler(study, space, config, seed)
        trial = study.ask()
        points.append(space.suggest(trial))
        study.tell(trial, float(points[-1]["mask_ratio"]))
    return points


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_repeats_and_a_resumed_session_goes_on(name: str) -> None:
    count = 6 if name == "gp" else 10  # a Gaussian process takes a second for each
    first = draw(name, 0, SPACE, count)
    assert first == draw(name, 0, SPACE, count)
    assert first == draw(name, 0, SPACE, count, resumed=True)
    assert all(point not in first[:index] for index, point in enumerate(first))
    assert first != draw(name, 1, SPACE, count)


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_ratio_is_drawn_for_masking_methods_only(name: str) -> None:
    points = draw(name, 0, CONDITIONAL, count=12)
    assert len({point["method"] for point in points}) > 1
    for point in points:
        assert (point["mask_ratio"] > 0) == (point["method"] in ("gmt", "random"))


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_models_are_used_after_the_start_up_trials(name: str) -> None:
    late = [float(point["mask_ratio"]) for point in draw(name, 0, SPACE, count=16)[8:]]
    assert sum(ratio >= 0.6 for ratio in late) > len(late) / 2


@pytest.mark.parametrize("name", ["tpe", "nsga2", "nsga3", "gp", "qmc", "random"])
def test_several_objectives(name: str) -> None:
    config = SearchConfig.model_validate({"sampler": name, "startup_trials": 4})
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.sampler = DistinctSampler(study, SPACE, config, seed=0)
    search = StudySearch(
        study,
        SPACE,
        trial_job,
        checks=4,
        objectives=("score", "seconds"),
    )
    for number in range(6):
        ratio = float(suggested(search, str(number)).point["mask_ratio"])
        search.is_unpromising(str(number), {"score": 0.1, "step": 1, "steps": 4})
        search.on_trial_complete(
            str(number),
            {"score": ratio, "state": "finished", "metrics/cost/train_seconds": 2 - ratio},
        )
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 6
    highest = max(trial.values[0] for trial in study.trials)
    assert {trial.values[0] for trial in study.best_trials} == {highest}


EVERY_FORM = SpaceConfig.model_validate(
    {
        **SPACE.model_dump(),
        "weight_decay": {"low": 0.0, "high": 0.3, "step": 0.1},
        "batch": {"mini_batch": {"low": 1, "high": 8, "log": True}},
        "examples": {"low": 8, "high": 64, "step": 8},
        "optimizer": ["adamw", "adafactor"],
        "betas": {"choices": [[0.9, 0.95], [0.9, 0.999]], "when": {"optimizer": "adamw"}},
        "clip_norm": [None, 1.0],
    }
)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "gp"])
def test_every_form_of_a_parameter_is_drawn_by_every_sampler(name: str) -> None:
    points = draw(name, 0, EVERY_FORM, count=16)
    for point in points:
        assert ("betas" in point) == (point["optimizer"] == "adamw")
        EVERY_FORM.check_point(point)
        assert type(point["batch.mini_batch"]) is type(point["examples"]) is int
        assert point["weight_decay"] in (0.0, 0.1, 0.2, 0.3)
    for key in ("weight_decay", "batch.mini_batch", "examples", "optimizer", "clip_norm"):
        assert len({point[key] for point in points}) > 1
    assert draw(name, 0, EVERY_FORM, count=16, resumed=True) == points


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("optuna.samplers:Sampler", "expected module:Class"),
        ("no_such_module_here:Own", "No module named 'no_such_module_here'"),
        ("optuna.samplers:PartialFixedSampler", "a constructor that takes a seed"),
        ("optuna.study:Study", "a subclass of optuna.samplers.BaseSampler, got"),
    ],
)
def test_what_is_no_sampler_is_refused(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_sampler(SearchConfig(sampler=name), 0)


def test_a_sampler_without_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.search.samplers.find_spec", lambda _: None)
    with pytest.raises(UserError, match="cmaes requires the package cmaes, which is not install"):
        build_sampler(SearchConfig(sampler="cmaes"), 0)
