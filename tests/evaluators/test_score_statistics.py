from __future__ import annotations

import math
import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evaluators.benchmark import ItemRecord, summarise
from evaluators.benchmarks import build
from evaluators.paired_comparison import paired_bootstrap
from evaluators.split import is_validation
from evaluators.statistics import (
    clustered_standard_error,
    holm,
    independent_number,
    interval_of_mean,
    mcnemar,
    mean_and_standard_error,
    mean_over_groups,
    normal_interval,
    pass_at_k,
    ratio_standard_error,
    wilson_interval,
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
    assert paired.low < paired.estimate < paired.high
    assert paired.low > 0.04 and paired.high < 0.06
    shuffled = paired_bootstrap(better, random.Random(2).sample(base, 300), resamples=2000)
    assert shuffled.high - shuffled.low > 5 * (paired.high - paired.low)
    assert paired == paired_bootstrap(better, base, resamples=2000)


@given(st.integers(1, 2000), st.data())
def test_wilsons_interval_is_scipys(n, data):
    right = data.draw(st.integers(0, n))
    expected = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_normal_interval_is_scipys():
    assert normal_interval(2.0, 0.5) == pytest.approx(stats.norm.interval(0.95, 2.0, 0.5))


def test_the_interval_of_a_mean_of_one_is_its_own_and_of_normal_ones_the_normal_one():
    assert interval_of_mean([(0.5, 0.3, 0.9)]) == pytest.approx((0.3, 0.9))
    errors = (0.03, 0.04, 0.12)
    parts = [(0.5, *normal_interval(0.5, error)) for error in errors]
    assert interval_of_mean(parts) == pytest.approx(normal_interval(0.5, 0.13 / 3))
    assert math.isnan(interval_of_mean([(0.5, 0.3, 0.9), (0.5, math.nan, math.nan)])[0])


@pytest.mark.parametrize("rates", [(0.5, 0.5), (0.02, 0.7), (0.99, 0.97, 0.9)])
def test_the_interval_of_a_mean_covers_the_truth(rates):
    draw, truth, covered = random.Random(5), sum(rates) / len(rates), 0
    for _ in range(1000):
        parts = []
        for size, rate in zip((40, 80, 120), rates, strict=False):
            right = sum(draw.random() < rate for _ in range(size))
            parts.append((right / size, *wilson_interval(right, size)))
        low, high = interval_of_mean(parts)
        assert 0 <= low <= high <= 1
        covered += low <= truth <= high
    assert 930 <= covered <= 985


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ(pairs):
    wins, losses = pairs.count((True, False)), pairs.count((False, True))
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert mcnemar(*zip(*pairs, strict=True)) == pytest.approx(expected)


def test_mcnemar_takes_thousands_of_pairs():
    a, b = [True] * 1500 + [False] * 1200, [False] * 1500 + [True] * 1200
    assert mcnemar(a, b) == pytest.approx(stats.binomtest(1500, 2700).pvalue)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_is_its_definition(p_values):
    order = sorted(p_values)
    count = len(order)
    steps = [min(1.0, (count - rank) * value) for rank, value in enumerate(order)]
    expected = {value: max(steps[: order.index(value) + order.count(value)]) for value in order}
    assert holm(p_values) == [expected[value] for value in p_values]


def test_clusters_of_one_change_nothing():
    values = [0.0, 1.0, 1.0, 0.5]
    names = [str(place) for place in range(4)]
    assert clustered_standard_error(values, names) == pytest.approx(stats.sem(values))
    assert math.isnan(clustered_standard_error(values, ["one"] * 4))


def test_clustered_standard_errors_match_repeated_sampling():
    draw = random.Random(0)

    def sample():
        values, clusters = [], []
        for cluster in range(60):
            shared = draw.random()
            size = draw.randint(1, 9)
            values += [float(draw.random() < shared) for _ in range(size)]
            clusters += [str(cluster)] * size
        return values, clusters

    spread = stats.tstd([mean_and_standard_error(sample()[0])[0] for _ in range(1500)])
    errors = [clustered_standard_error(*sample()) for _ in range(200)]
    assert sum(errors) / 200 == pytest.approx(spread, rel=0.08)
    naive = [mean_and_standard_error(sample()[0])[1] for _ in range(200)]
    assert sum(naive) / 200 < 0.85 * spread


def test_the_mean_over_groups_and_its_error_match_repeated_sampling():
    draw = random.Random(1)
    rates = {"a": (0.9, 20), "b": (0.5, 80), "c": (0.2, 40)}

    def sample():
        values, groups = [], []
        for group, (rate, size) in rates.items():
            values += [float(draw.random() < rate) for _ in range(size)]
            groups += [group] * size
        return mean_over_groups(values, groups, [str(place) for place in range(len(values))])

    found = [sample() for _ in range(1500)]
    assert sum(mean for mean, _ in found) / 1500 == pytest.approx((0.9 + 0.5 + 0.2) / 3, abs=0.005)
    spread = stats.tstd([mean for mean, _ in found])
    assert sum(error for _, error in found) / 1500 == pytest.approx(spread, rel=0.05)
    assert math.isnan(mean_over_groups([1.0, 0.0, 1.0], ["a", "b", "b"], ["1", "2", "3"])[1])


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.93])
def test_intervals_cover_the_truth(rate):
    draw = random.Random(2)
    covered = 0
    for _ in range(1000):
        low, high = wilson_interval(sum(draw.random() < rate for _ in range(150)), 150)
        covered += low <= rate <= high
    assert 925 <= covered <= 980


def test_the_paired_bootstrap_covers_the_truth():
    draw = random.Random(3)
    covered = 0
    for seed in range(200):
        pairs = [(draw.random() < 0.6, draw.random() < 0.5) for _ in range(80)]
        a, b = zip(*((float(x), float(y)) for x, y in pairs), strict=True)
        found = paired_bootstrap(a, b, resamples=400, seed=seed)
        covered += found.low <= 0.1 <= found.high
    assert 180 <= covered <= 199


def test_unbiased_pass_at_k():
    draw = random.Random(4)
    rate, n, k = 0.15, 20, 10
    estimates = [pass_at_k(n, sum(draw.random() < rate for _ in range(n)), k) for _ in range(4000)]
    assert sum(estimates) / 4000 == pytest.approx(1 - (1 - rate) ** k, abs=0.01)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="expected two equal shapes"):
        paired_bootstrap([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="k=3"):
        pass_at_k(2, 1, 3)
    with pytest.raises(ValueError, match="at least one"):
        mean_and_standard_error([])
    with pytest.raises(ValueError, match="at least one"):
        mean_over_groups([], [], [])
    with pytest.raises(ValueError, match="found 3 of 2"):
        wilson_interval(3, 2)


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


def test_clusters_and_groups_reach_the_result():
    rows = [
        ItemRecord(f"i{n}", "", "", "x", float(n < 6), 1.0, 4, 1, False, group, cluster)
        for n, (group, cluster) in enumerate(
            [("a", "1"), ("a", "1"), ("a", "2"), ("b", "3"), ("b", "3"), ("b", "4"), ("b", "4")]
        )
    ]
    benchmark = build("exact_match")
    scores, clusters = [row.score for row in rows], [row.cluster for row in rows]
    found = summarise(benchmark, rows)
    assert found.standard_error == pytest.approx(clustered_standard_error(scores, clusters))
    benchmark.aggregation = "groups"
    found = summarise(benchmark, rows)
    assert found.score == pytest.approx((1.0 + 0.75) / 2)
    assert found.low == pytest.approx(found.score - 1.959964 * found.standard_error)


def test_the_interval_of_a_perfect_score_has_a_width():
    found = summarise(build("exact_match"), [record(str(n), 1.0, 1.0, 4) for n in range(50)])
    assert (found.low, found.high) == pytest.approx((0.9287, 1.0), abs=1e-3)


@pytest.mark.parametrize("score", [0.0, 1.0])
@pytest.mark.parametrize(
    ("aggregation", "places", "independent"),
    [
        ("items", [("", f"c{n % 20}") for n in range(60)], 20),
        ("groups", [(f"g{n % 4}", "") for n in range(80)], 80),
        ("groups", [("small", ""), ("small", "")] + [("large", "")] * 50, 4),
        ("groups", [(f"g{n % 4}", f"c{n % 12}") for n in range(120)], 12),
    ],
)
def test_no_score_is_certain(score, aggregation, places, independent):
    rows = [
        ItemRecord(f"i{n}", "", "", "x", score, 1.0, 4, 1, False, group, cluster)
        for n, (group, cluster) in enumerate(places)
    ]
    benchmark = build("exact_match")
    benchmark.aggregation = aggregation
    found = summarise(benchmark, rows)
    expected = wilson_interval(score * independent, independent)
    assert (found.score, found.standard_error) == (score, 0.0)
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.high - found.low > 0.04


def test_a_group_of_one_item_leaves_the_interval_open():
    rows = [
        ItemRecord(f"i{n}", "", "", "x", 1.0, 1.0, 4, 1, False, "b" if n else "a")
        for n in range(50)
    ]
    benchmark = build("exact_match")
    benchmark.aggregation = "groups"
    found = summarise(benchmark, rows)
    assert math.isnan(found.standard_error)
    assert (found.low, found.high) == (0.0, 1.0)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), min_size=1))
def test_the_heaviest_cluster_bounds_the_independent_number(places):
    groups, clusters = [g for g, _ in places], [f"{g}{c}" for g, c in places]
    assert 1 - 1e-9 <= independent_number(clusters) <= len(set(clusters)) + 1e-9
    # All zeros are likeliest, at a given mean, when all that is right lies in one cluster.
    most = independent_number(clusters, groups)
    shares = {
        c: sum(
            1 / (groups.count(g) * len(set(groups)))
            for g, d in zip(groups, clusters, strict=True)
            if d == c
        )
        for c in clusters
    }
    assert sum(shares.values()) == pytest.approx(1)
    assert most == pytest.approx(1 / max(shares.values()))
