"""The replays of recorded searches: what a rule costs, finds and spares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import early_stopping
import optuna
import pytest
from early_stopping import (
    Course,
    Rule,
    evaluated,
    interval,
    judged,
    paired,
    replay,
    right,
    rules,
    shortened,
)
from mini_trainings import CHECKS, ITEMS, RATES, Kind, key, searches
from optuna.pruners import NopPruner, SuccessiveHalvingPruner, WilcoxonPruner
from samplers import TRIALS, nearest, search

from sweeps.config.search_space import Point, SpaceConfig

SPACE = SpaceConfig.model_validate(
    {
        "mask_ratio": {"low": 0.0, "high": 0.9, "step": 0.1},
        "accumulation_interval": [1, 2, 4],
        "learning_rate": {"low": RATES[0], "high": RATES[-1], "log": True},
    }
)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def point(ratio: float = 0.5, rate: float = RATES[3]) -> Point:
    return {"mask_ratio": ratio, "accumulation_interval": 1, "learning_rate": rate}


def rows(early: float, last: float, ratio: float = 0.5) -> dict[str, Any]:
    """One point whose short trainings and early checks all score `early`."""
    items = [f"{(1 << round(value * ITEMS)) - 1:032x}" for value in (early, last)]
    whole = {
        "score": [early] * (CHECKS - 1) + [last],
        "bits_per_byte": [1 - early] * CHECKS,
        "loss": [1 - early] * CHECKS,
        "items": [items[0]] * (CHECKS - 1) + [items[1]],
    }
    short = {"score": [0.0, early], "bits_per_byte": [9.0, 1 - early]}
    trainings = {"cosine": whole, "wsd": whole, "half": short, "quarter": short}
    return {kind: {**each, "point": point(ratio)} for kind, each in trainings.items()}


def halving(courses: Sequence[Course]) -> Any:
    return replay(SuccessiveHalvingPruner(min_resource=1, reduction_factor=2), courses, SPACE)


def test_without_a_pruner_everything_is_run_and_the_best_is_found() -> None:
    courses = [Course(point(), (({1: -last}, 0.1),), 1.0, last) for last in (0.2, 0.9, 0.4)]
    found = replay(NopPruner(), courses, SPACE)
    assert (found.cost, found.best, found.finished) == (3.0, 0.9, 3)


def test_short_trainings_are_paid_for_too() -> None:
    """By hand: 0.5 goes on as the first; 0.3 stops at the first rung; 0.6 leads both rungs."""
    points = [rows(0.5, 0.5), rows(0.3, 0.9), rows(0.6, 0.7)]
    found = halving([shortened("score", ("quarter", "half"), 2, each) for each in points])
    assert found.cost == 1.75 + 0.25 + 1.75
    assert (found.best, found.finished) == (0.7, 2)


def test_controls_are_spared_and_still_compared_with() -> None:
    points = [rows(0.5, 0.5), rows(0.3, 0.9, ratio=0.0), rows(0.4, 0.8)]
    found = halving([shortened("score", ("quarter",), 2, each) for each in points])
    assert found.cost == 1.25 + 1.25 + 0.25
    assert found.best == 0.9


def test_more_bits_per_byte_are_worse() -> None:
    (course,) = [shortened("bits_per_byte", ("quarter",), 3, rows(0.75, 0.5))]
    assert course.checks == (({1: -0.25}, 0.25),)


def test_items_are_read_in_order() -> None:
    bits = right(rows(0.25, 0.5)["cosine"], 1)
    assert len(bits) == ITEMS
    assert bits == [0] * 96 + [1] * 32
    assert sum(right(rows(0.25, 0.5)["cosine"], CHECKS)) == 64


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_paired_items_stop_what_is_clearly_worse_than_the_best() -> None:
    points = [rows(0.75, 0.8), rows(0.25, 0.2), rows(0.75, 0.85)]
    found = replay(WilcoxonPruner(), [paired(2, each) for each in points], SPACE)
    assert (found.cost, found.best) == (1.0 + 2 / CHECKS + 1.0, 0.85)
    items = replay(WilcoxonPruner(), [evaluated(each) for each in points], SPACE)
    assert 2.0 < items.cost < 3.0
    assert items.best == 0.85


def test_a_rule_is_judged_by_what_its_best_score_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(early_stopping.KINDS, "cosine", Kind(points=2, seeds=3))
    better, worse = rows(0.5, 0.5), rows(0.4, 0.75)  # by the early value
    table = [[better, worse], [worse, better], [better, rows(0.6, 0.75)]]
    rule = Rule("a", lambda: SuccessiveHalvingPruner(min_resource=1), lambda r: checked(r))
    found = judged(rule, table, SPACE)
    assert found["lost"][0] == pytest.approx(0.25 / 3, abs=1e-4)  # of the first search alone
    assert found["share"] == pytest.approx((1.5 + 2 + 2) / 6, abs=1e-4)
    assert 0.0 < found["lost_any"][0] < 0.25  # in some orders, of the second too
    assert found["error"] == pytest.approx((0.75 * 0.25 / ITEMS) ** 0.5, abs=1e-4)


def checked(each: dict[str, Any]) -> Course:
    row = each["cosine"]
    return Course(row["point"], (({1: row["score"][0]}, 0.5),), 1.0, row["score"][-1])


def test_an_interval_is_that_of_student() -> None:
    low, high = interval([1.0, 2.0, 3.0])
    assert (low, high) == (pytest.approx(2 - 2.484, abs=1e-3), pytest.approx(4.484, abs=1e-3))


def test_every_rule_has_its_own_name_and_the_searches_share_no_point() -> None:
    names = [rule.name for rule in rules()]
    assert len(names) == len(set(names))
    points = [key("", each) for one in searches() for each in one]
    assert len(points) == len(set(points)) == 240


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
def test_a_sampler_is_scored_by_the_nearest_recorded_point(sampler: str) -> None:
    table = {nearest(each): each["learning_rate"] for one in searches() for each in one}
    assert len(table) == 240
    best = search(sampler, table, SPACE, seed=0)
    assert len(best) == TRIALS
    assert best == sorted(best)
    assert set(best) <= set(RATES)
    assert best[-1] >= RATES[-2]  # the rate alone makes the score
