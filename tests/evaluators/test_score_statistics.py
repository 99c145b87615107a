from __future__ import annotations

import math
import random
from itertools import combinations

import pytest

from evaluators.benchmark import ItemRecord, summarise
from evaluators.benchmarks import build
from evaluators.split import is_validation
from evaluators.statistics import (
    mean_and_standard_error,
    paired_bootstrap,
    pass_at_k,
    ratio_standard_error,
)


def test_standard_error_of_a_proportion():
    mean, error = mean_and_standard_error([1.0] * 30 + [0.0] * 70)
    assert mean == 0.3
    assert error == pytest.approx(math.sqrt(0.3 * 0.7 / 99))
    assert math.isnan(mean_and_standard_error([1.0])[1])


def test_ratio_standard_error_matches_repeated_sampling():
    draw = random.Random(0)

    def sample():
        sizes = [draw.randint(5, 50) for _ in range(200)]
        return [2.0 * size + draw.gauss(0, 20) for size in sizes], sizes

    ratios = [sum(a) / sum(b) for a, b in (sample() for _ in range(500))]
    spread = mean_and_standard_error(ratios)[1] * math.sqrt(500)
    assert ratio_standard_error(*sample()) == pytest.approx(spread, rel=0.2)


def test_pass_at_k_equals_counting_all_draws():
    for n, correct, k in [(5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 2), (7, 3, 5)]:
        draws = list(combinations(range(n), k))
        expected = sum(any(i < correct for i in draw) for draw in draws) / len(draws)
        assert pass_at_k(n, correct, k) == pytest.approx(expected)


def test_pairing_narrows_the_interval():
    draw = random.Random(1)
    base = [draw.random() for _ in range(300)]
    better = [value + 0.05 + draw.gauss(0, 0.02) for value in base]
    paired = paired_bootstrap(better, base, resamples=2000)
    assert paired.low < paired.mean < paired.high
    assert paired.low > 0.04 and paired.high < 0.06
    shuffled = paired_bootstrap(better, random.Random(2).sample(base, 300), resamples=2000)
    assert shuffled.high - shuffled.low > 5 * (paired.high - paired.low)
    assert paired == paired_bootstrap(better, base, resamples=2000)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="same length"):
        paired_bootstrap([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="k=3"):
        pass_at_k(2, 1, 3)
    with pytest.raises(ValueError, match="at least one"):
        mean_and_standard_error([])


def test_the_validation_part_is_a_stable_fraction():
    texts = [f"question {number}" for number in range(4000)]
    held = [is_validation(text) for text in texts]
    assert 0.04 < sum(held) / len(held) < 0.06
    assert held == [is_validation(f"  {text}\n") for text in texts]
    assert all(is_validation(text, 1.0) for text in texts)
    assert is_validation("question 29") == is_validation("question 29")


def record(name: str, score: float, nats: float, size: int) -> ItemRecord:
    return ItemRecord(name, "", "", "x", score, nats, size, 1, False)


def test_bits_per_byte_is_pooled_and_higher_is_better():
    rows = [record("a", 0.0, 8 * math.log(2), 4), record("b", 0.0, 2 * math.log(2), 6)]
    result = summarise(build("exact_match", metric="bits_per_byte"), rows)
    assert result.score == pytest.approx(-1.0)
    assert result.metrics["bits_per_byte"] == pytest.approx(1.0)
    assert result.standard_error > 0
    assert summarise(build("exact_match"), rows).score == 0.0
