"""The search space: its YAML forms, its bounds, and the points drawn from it."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from pydantic import ValidationError

from sweeps.space import Choices, FloatRange, SpaceConfig, parameter

SPACE = {"mask_ratio": [0.0, 0.2], "accumulation_interval": [1, 4], "learning_rate": 1e-3}


def space(**changes: Any) -> SpaceConfig:
    return SpaceConfig.model_validate({**SPACE, **changes})


def test_the_short_forms() -> None:
    assert parameter(0.2) == Choices(choices=(0.2,))
    assert parameter([0, 0.2]) == Choices(choices=(0, 0.2))
    assert parameter({"low": 1e-4, "high": 1e-2, "log": True}) == FloatRange(
        low=1e-4, high=1e-2, log=True
    )


@pytest.mark.parametrize("ratio", [1.0, -0.1, float("nan"), {"low": 0.0, "high": 1.0}, [0, 1]])
def test_a_ratio_outside_of_zero_to_one_is_refused(ratio: Any) -> None:
    with pytest.raises(ValidationError, match=r"expected a fraction in \[0, 1\)"):
        space(mask_ratio=ratio)


@pytest.mark.parametrize("interval", [0, 1.5, {"low": 1, "high": 4}])
def test_an_interval_is_a_list_of_whole_numbers(interval: Any) -> None:
    with pytest.raises(ValidationError, match="accumulation_interval"):
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
        parameter(form)


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
