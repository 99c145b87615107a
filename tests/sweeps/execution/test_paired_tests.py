"""The chosen trial against the control on the same test items, with numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from evaluators.benchmark import BenchmarkResult, ItemRecord
from evaluators.paired_comparison import paired_bootstrap, stratified_bootstrap
from sweeps.config.load import parse_config
from sweeps.execution.paired_tests import (
    comparison_remarks,
    paired_metrics,
    paired_tests,
    paired_text,
)
from sweeps.execution.test_scoring import TestScores, _items_of
from sweeps.report.trial_row import ScoreLabel
from sweeps.search.trial_records import label_of

Items = list[list[Any]]


def answered(wins: int, losses: int, both: int, neither: int) -> tuple[Items, Items]:
    """The items of the chosen trial and of the control; ``wins``: only the first was right."""
    pairs = [(1.0, 0.0)] * wins + [(0.0, 1.0)] * losses + [(1.0, 1.0)] * both
    pairs += [(0.0, 0.0)] * neither
    ours, control = (
        [[f"i{n}", pair[side], 1, ""] for n, pair in enumerate(pairs)] for side in (0, 1)
    )
    return ours, control


def scores(**benchmarks: tuple[Items, Items]) -> TestScores:
    items = {
        role: {name: pair[side] for name, pair in benchmarks.items()}
        for side, role in enumerate(("best", "sft"))
    }
    return TestScores({"best": "a", "sft": "b"}, {}, items)


def test_two_wins_and_ten_losses_of_two_hundred() -> None:
    (found,) = paired_tests(scores(sums=answered(2, 10, 134, 54)))
    assert (found.best, found.sft, found.n) == pytest.approx((0.68, 0.72, 200))
    assert found.difference == pytest.approx(-0.04)
    # 2 (C(12,0) + C(12,1) + C(12,2)) / 2^12 = 158 / 4096
    assert found.p_value == pytest.approx(158 / 4096)
    # Paired, the error is sqrt((12 - 8^2 / 200) / 199 / 200) = 0.0171; as if independent, 0.046.
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * 0.0171, rel=0.1)
    assert paired_text(found, ScoreLabel("accuracy")).startswith(
        "sums, 200 test items: 0.680, SFT 0.720, difference -0.040 (95 % -0.07"
    )
    assert paired_text(found, ScoreLabel("accuracy")).endswith("McNemar's p 0.039)")
    assert paired_metrics([found]) == {
        "test_difference/sums/mean": pytest.approx(-0.04),
        "test_difference/sums/low": found.low,
        "test_difference/sums/high": found.high,
        "test_difference/sums/p": pytest.approx(158 / 4096),
    }


def test_several_benchmarks_are_paired_within_each_and_weigh_the_same() -> None:
    large, small, both = paired_tests(
        scores(a_large=answered(30, 10, 300, 60), b_small=answered(1, 3, 10, 6))
    )
    assert (large.difference, small.difference) == pytest.approx((0.05, -0.1))
    assert both.difference == pytest.approx((0.05 - 0.1) / 2)
    assert (both.n, both.p_value) == (420, None)
    variances = [
        (differing - (wins - losses) ** 2 / n) / (n - 1) / n
        for wins, losses, n, differing in ((30, 10, 400, 40), (1, 3, 20, 4))
    ]
    by_hand = math.sqrt(sum(variances)) / 2
    assert (both.high - both.low) / 2 == pytest.approx(1.96 * by_hand, rel=0.1)


def test_items_of_one_source_are_resampled_as_one() -> None:
    ours, control = answered(8, 0, 0, 8)
    for side in (ours, control):
        for place, item in enumerate(side):
            item[3] = f"passage {place // 4}"
    (found,) = paired_tests(scores(reading=(ours, control)))
    assert found.difference == pytest.approx(0.5)
    assert found.p_value is None  # its items are not independent
    four = paired_bootstrap(np.array([[1.0], [1.0], [0.0], [0.0]]), np.zeros((4, 1)))
    assert (found.low, found.high) == pytest.approx((four.low, four.high))


def test_partial_scores_have_no_exact_test() -> None:
    ours, control = answered(3, 1, 4, 4)
    ours[0][1] = 0.5
    (found,) = paired_tests(scores(f1=(ours, control)))
    assert found.p_value is None
    assert "McNemar" not in paired_text(found, ScoreLabel("F1"))


def test_one_item_has_a_difference_and_no_interval() -> None:
    (found,) = paired_tests(scores(one=answered(1, 0, 0, 0)))
    assert (found.difference, found.p_value) == (1.0, 1.0)
    assert math.isnan(found.low)
    assert paired_metrics([found]).keys() == {"test_difference/one/mean", "test_difference/one/p"}


def test_records_before_clusters_were_kept_are_read() -> None:
    ours, control = answered(2, 10, 134, 54)
    (found,) = paired_tests(
        scores(sums=([item[:3] for item in ours], [item[:3] for item in control]))
    )
    assert found.p_value == pytest.approx(158 / 4096)


def test_what_cannot_be_paired_is_not_compared() -> None:
    ours, control = answered(2, 10, 4, 4)
    assert paired_tests(TestScores()) == ()
    same = scores(sums=(ours, control))
    assert paired_tests(TestScores({"best": "a", "sft": "a"}, {}, same.items)) == ()
    assert paired_tests(TestScores({"best": "a"}, {}, {"best": {"sums": ours}})) == ()
    assert paired_tests(scores(sums=(ours, control[1:]))) == ()  # other items than at that time
    design = TestScores({"k": "k"}, {}, {"k": {"sums": ours}})
    assert paired_tests(design) == ()


def record(name: str, score: float, group: str) -> ItemRecord:
    return ItemRecord(name, "", "", "", score, 8.0, 4, 1, False, group=group, cluster="c")


def test_an_item_weighs_what_it_weighs_in_the_score() -> None:
    records = (record("a", 1.0, "x"), record("b", 0.0, "y"), record("c", 1.0, "y"))
    result = BenchmarkResult("mmlu", "accuracy", 0.75, 0.1, 3, {}, records, "", None)
    assert [item[2] for item in _items_of(result)] == [1, 1, 1]
    grouped = BenchmarkResult(
        "mmlu", "accuracy", 0.75, 0.1, 3, {}, records, "", None, aggregation="groups"
    )
    items = _items_of(grouped)
    assert [item[2:4] for item in items] == [[1.0, "c"], [0.5, "c"], [0.5, "c"]]
    mean = sum(item[1] * item[2] for item in items) / sum(item[2] for item in items)
    assert mean == pytest.approx(grouped.score)


def test_the_end_of_a_run_says_it(tree: dict[str, Any]) -> None:
    label = label_of(parse_config(tree), "sums")
    (said,) = comparison_remarks(scores(exact_match=answered(2, 10, 134, 54)), label)
    assert said.startswith(
        "exact_match, 200 test items: 0.680, SFT 0.720, difference -0.040 (95 % "
    )
    assert comparison_remarks(TestScores(), label) == ()


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"best": "a", "sft": "a"}, "the best trial is itself plain SFT"),
        ({"best": "a"}, "no trial with mask ratio 0 finished"),
    ],
)
def test_the_end_of_a_run_says_why_there_is_no_comparison(
    tree: dict[str, Any], keys: dict[str, str], reason: str
) -> None:
    (said,) = comparison_remarks(TestScores(keys), label_of(parse_config(tree), "sums"))
    assert said == f"not compared with SFT on test items: {reason}"


def test_one_part_is_the_bootstrap_of_one_benchmark() -> None:
    random = np.random.default_rng(3)
    a, b = random.normal(size=(30, 2)), random.normal(size=(30, 2))
    assert stratified_bootstrap([(a, b, np.ones(30))]) == paired_bootstrap(a, b)
