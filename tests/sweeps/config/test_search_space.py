"""The search space: its YAML forms, its bounds, and the points drawn from it."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from pydantic import ValidationError

from sweeps.config.load import parse_config
from sweeps.config.search_space import SpaceConfig, identity, shortfall, trials_left
from sweeps.config.searched_parameter import Choices, FloatRange, parameter
from sweeps.config.study_config import NuisanceConfig
from sweeps.storage.errors import UserError

SPACE = {"mask_ratio": [0.0, 0.2], "accumulation_interval": [1, 4], "learning_rate": 1e-3}


def space(**changes: Any) -> SpaceConfig:
    return SpaceConfig.model_validate({**SPACE, **changes})


def test_the_short_forms() -> None:
    assert parameter("mask_ratio", 0.2) == Choices(choices=(0.2,))
    assert parameter("mask_ratio", [0, 0.2]) == Choices(choices=(0, 0.2))
    assert parameter("learning_rate", {"low": 1e-4, "high": 1e-2, "log": True}) == FloatRange(
        low=1e-4, high=1e-2, log=True
    )


@pytest.mark.parametrize("ratio", [1.0, -0.1, float("nan"), {"low": 0.0, "high": 1.0}, [0, 1]])
def test_a_ratio_outside_of_zero_to_one_is_refused(ratio: Any) -> None:
    with pytest.raises(ValidationError, match=r"expected a fraction in \[0, 1\)"):
        space(mask_ratio=ratio)


@pytest.mark.parametrize("interval", [0, 1.5, {"low": 1.5, "high": 4}, {"low": 0, "high": 4}])
def test_an_interval_is_a_whole_number(interval: Any) -> None:
    with pytest.raises(ValidationError, match="expected a whole number of mini-batches"):
        space(accumulation_interval=interval)


@pytest.mark.parametrize("rate", [0, -1e-3, float("inf"), float("nan")])
def test_a_learning_rate_is_positive_and_finite(rate: float) -> None:
    with pytest.raises(ValidationError, match="learning_rate"):
        space(learning_rate=rate)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"low": 2, "high": 1}, "above high"),
        ({"low": 0, "high": 1, "log": True}, "low above 0"),
        ({"low": 1, "high": 2, "log": True, "step": 0.1}, "not both"),
        ({"low": 0, "high": 0.95, "step": 0.1}, "do not end at high 0.95"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(form: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        parameter("learning_rate", form)


def test_points_lie_in_the_space_on_clean_decimals() -> None:
    wide = space(
        mask_ratio={"low": 0.0, "high": 0.9, "step": 0.1},
        learning_rate={"low": 1e-4, "high": 1e-2, "log": True},
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(60):
        point = wide.suggest(study.ask())
        seen.add(point["mask_ratio"])
        assert point["accumulation_interval"] in (1, 4)
        assert isinstance(point["accumulation_interval"], int)
        assert 1e-4 <= point["learning_rate"] <= 1e-2
    assert seen <= {n / 10 for n in range(10)}
    assert len(seen) >= 8


def test_a_starting_point_on_the_grid_is_held() -> None:
    wide = space(mask_ratio={"low": 0.0, "high": 0.9, "step": 0.1})
    for tenths in range(10):
        wide.check_point({"mask_ratio": tenths / 10})
    for ratio in (0.25, 0.91, -0.1):
        with pytest.raises(ValueError, match=r"expected 0 to 0.9 in steps of 0.1"):
            wide.check_point({"mask_ratio": ratio})
    with pytest.raises(ValueError, match="expected one of 1, 4"):
        wide.check_point({"accumulation_interval": 2})


def test_a_space_of_methods_has_ratios_for_those_that_mask() -> None:
    wide = space(method=["sft", "gmt", "random", "hft"], mask_ratio=[0.2, 0.4])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(40):
        trial = study.ask()
        point = wide.suggest(trial)
        masks = point["method"] in ("gmt", "random")
        assert ("mask_ratio" in trial.params) == masks
        assert point["mask_ratio"] in ((0.2, 0.4) if masks else (0.0,))
        assert wide.point(trial.params) == point
        seen.add(point["method"])
    assert seen == {"sft", "gmt", "random", "hft"}


def test_without_methods_a_point_has_none() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    assert set(space().suggest(study.ask())) == set(SPACE)


def test_a_grid_is_the_product_of_finite_choices() -> None:
    finite = space(mask_ratio={"low": 0.0, "high": 0.3, "step": 0.1})
    points = [finite.point(point) for point in finite.grid()]
    assert [point["mask_ratio"] for point in points] == [0, 0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3]
    assert [point["accumulation_interval"] for point in points] == [1, 4] * 4
    for point in finite.grid():
        finite.check_point(point)
    assert len(space(learning_rate={"low": 1e-3, "high": 1e-3}).grid()) == 4
    with pytest.raises(
        ValueError, match="learning_rate: the sampler grid requires a finite range"
    ):
        space(learning_rate={"low": 1e-4, "high": 1e-3, "log": True}).grid()


@pytest.mark.parametrize(
    "choices",
    [[0.1, 0.1], [0.1, 0.2, 0.1], [0.3, 0.1 + 0.2], [0.0, -0.0], {"choices": [0.1, 0.1]}],
)
def test_a_value_that_is_given_twice_is_refused(choices: Any) -> None:
    with pytest.raises(ValidationError, match="given twice: expected each value once"):
        space(mask_ratio=choices)


def test_so_it_is_where_one_is_written_in_another_way() -> None:
    with pytest.raises(
        ValidationError, match=r"1\.0 is given twice: expected each value once, got \[1, 1\.0\]"
    ):
        space(accumulation_interval=[1, 1.0])
    with pytest.raises(ValidationError, match=r"0\.001 is given twice"):
        NuisanceConfig.model_validate(
            {"accumulation_interval": 1, "learning_rate": [1e-3, 0.0010, 2e-3]}
        )


def test_a_whole_starting_point_is_given_once(tree: dict[str, Any]) -> None:
    start = {"mask_ratio": 0.2, "accumulation_interval": 1, "learning_rate": 1e-3}
    for first, second in [
        (start, start),
        ({**start, "mask_ratio": 0}, {**start, "mask_ratio": 0.0}),
    ]:
        with pytest.raises(UserError, match="start: expected each point once"):
            parse_config({**tree, "search": {"start": [first, {}, second]}})
    parse_config({**tree, "search": {"start": [{"mask_ratio": 0.2}] * 2}})  # the rest is drawn


@pytest.mark.parametrize(
    ("changes", "points"),
    [
        ({}, 4),
        ({"mask_ratio": {"low": 0.0, "high": 0.9, "step": 0.1}}, 20),
        ({"mask_ratio": {"low": 0.2, "high": 0.2}}, 2),
        ({"mask_ratio": {"low": 0.0, "high": 0.9}}, None),
        ({"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}, None),
        ({"method": ["sft", "gmt", "hft"], "mask_ratio": [0.2, 0.4, 0.6]}, 2 + 6 + 2),
        ({"method": ["sft", "hft"], "mask_ratio": {"low": 0.2, "high": 0.9}}, 4),
    ],
)
def test_the_size_of_a_space(changes: dict[str, Any], points: int | None) -> None:
    some = space(**changes)
    assert some.size() == points
    if points is not None and changes.get("mask_ratio") != {"low": 0.2, "high": 0.9}:
        grid = [identity(some, point) for point in some.grid()]
        assert len(set(grid)) == len(grid) == points
        assert not any(None in one for one in grid)


def test_trials_that_are_left_are_points_that_are_left() -> None:
    some = space()  # 4 points
    begun = [dict(point) for point in some.grid()[:2]]
    assert trials_left(3, some, []) == 3
    assert trials_left(100, some, []) == 4
    assert trials_left(100, some, begun) == 2
    assert trials_left(100, some, begun + begun) == 2  # as an older study may have them
    assert trials_left(4, some, begun + begun) == 0
    outside = {**begun[0], "learning_rate": 5e-3}  # as one that was adopted may have it
    assert trials_left(100, some, [outside]) == 4
    assert trials_left(3, some, [outside]) == 2
    assert trials_left(9, space(mask_ratio={"low": 0.0, "high": 0.9}), begun) == 7


def test_a_space_smaller_than_the_trials_is_named() -> None:
    assert shortfall(4, space()) == ""
    assert shortfall(5, space()) == (
        "search.trials is 5, but the space has only 4 points; each is trained once"
    )
    single = space(mask_ratio=0.2, accumulation_interval=1)
    assert "only 1 point; each is trained once" in shortfall(2, single)
