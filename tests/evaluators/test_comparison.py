"""Two models on the same items: numbers worked out by hand, and nothing dropped in silence."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy import stats

from evaluators.paired_comparison import Difference, ScoredItem, differences, left_out


def items(scores: list[float], prompt: str = "") -> list[ScoredItem]:
    return [ScoredItem(f"i{n}", score, prompt=prompt) for n, score in enumerate(scores)]


def test_wins_and_losses_give_mcnemar_and_holm() -> None:
    a = {"x": items([1] * 12 + [0] * 2 + [1] * 6), "y": items([1] * 9 + [0])}
    b = {"x": items([0] * 12 + [1] * 2 + [1] * 6), "y": items([0] * 9 + [0])}
    x, y, mean = differences(a, b)
    assert (x.a, x.b, x.difference, x.n) == (0.9, 0.4, 0.5, 20)
    assert x.p_value == pytest.approx(stats.binomtest(2, 14).pvalue)
    assert y.p_value == pytest.approx(2 / 2**9)
    assert y.adjusted == pytest.approx(2 * y.p_value)
    assert x.adjusted == pytest.approx(max(x.p_value, 2 * y.p_value))
    assert mean.benchmark == "" and mean.p_value is None
    assert mean.difference == pytest.approx((0.5 + 0.9) / 2)
    assert x.low < 0.5 < x.high


def test_the_detectable_difference_is_found_four_times_of_five() -> None:
    draw, n = random.Random(0), 400
    seen = 0
    for _ in range(200):
        gap = [draw.gauss(0.1, 0.7) for _ in range(n)]
        (found,) = differences({"t": items(gap)}, {"t": items([0.0] * n)})
        seen += abs(found.difference) > 1.96 * found.detectable / 2.802
    # a true difference of 0.1 with a standard error of 0.035 is 2.86 errors: the detectable one
    assert found.detectable == pytest.approx(2.802 * 0.7 / math.sqrt(n), rel=0.1)
    assert 0.74 < seen / 200 < 0.9


def test_models_that_always_agree_could_still_have_differed() -> None:
    (found,) = differences({"t": items([1, 0] * 50)}, {"t": items([1, 0] * 50)})
    assert (found.difference, found.p_value) == (0.0, 1.0)
    assert found.detectable == pytest.approx(6 / 100)  # 2 / 2**6 < 0.05 < 2 / 2**5
    assert stats.binomtest(6, 6).pvalue < 0.05 < stats.binomtest(5, 5).pvalue


def test_weights_are_those_of_the_score() -> None:
    a = [ScoredItem("x", 1.0, 3.0), ScoredItem("y", 0.0, 1.0)]
    (found,) = differences({"t": a}, {"t": [each._replace(score=0.5) for each in a]})
    assert (found.a, found.b, found.p_value) == (0.75, 0.5, None)
    assert np.isfinite(found.detectable)


def test_items_that_do_not_match_are_named() -> None:
    a = {"t": items([1, 0, 1], "p"), "lonely": items([1]), "other": items([1, 0])}
    moved = [item._replace(id=f"j{n}") for n, item in enumerate(items([1, 0]))]
    b = {"t": [*items([1, 0], "p")[1:], ScoredItem("i2", 1.0, prompt="q"), ScoredItem("i9", 1.0)]}
    b["other"] = moved
    found = differences(a, b)
    assert [each.benchmark for each in found] == ["t"]
    (one,) = found
    assert (one.n, one.only_a, one.only_b) == (1, ("i0",), ("i9",))
    assert one.asked_differently == ("i2",)
    assert math.isnan(one.low) and math.isnan(one.detectable)
    assert left_out(a, b, found) == {"lonely": (1, 0), "other": (2, 2)}
    with pytest.raises(ValueError, match="found lonely and t, other with no item in common"):
        differences({"lonely": items([1])}, b)
    with pytest.raises(ValueError, match="'i0' more than once"):
        differences({"t": items([1]) * 2}, {"t": items([1])})


def test_a_difference_is_plain_data() -> None:
    (found,) = differences({"t": items([1, 0])}, {"t": items([0, 0])})
    assert isinstance(found, Difference)
    assert found == differences({"t": items([1, 0])}, {"t": items([0, 0])})[0]
