"""The statistics against scipy, hand-made cases and simulation on curves whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from verdict_simulation import Rate, drop_power, run, table

from evaluators.paired_comparison import paired_bootstrap
from sweeps.report.arm_comparison import (
    against_best,
    against_control,
    flat_power,
    holm,
    seeds_for_flat,
    tost_p,
)
from sweeps.report.arms import Arm, TooFewScores, comparable
from sweeps.report.intervals import (
    dunnett,
    maximum_modulus,
    simultaneous_intervals,
    spread_differs_p,
    tukey,
)
from sweeps.report.pareto_front import pareto_front

# Quarters are exact in binary, so adding a whole number rounds nothing.
SCORES = st.lists(st.integers(-99, 99).map(lambda x: x / 4), min_size=2, max_size=6)


def arms(*rows: tuple[float, ...]) -> list[Arm]:
    return [Arm(str(i), row) for i, row in enumerate(rows)]


class TestSpread:
    def test_is_the_root_of_the_mean_square_within(self) -> None:
        some = arms((1.0, 2.0, 3.0), (10.0, 14.0))
        spread = comparable(some).spread
        assert spread.df == 3
        assert spread.sd == pytest.approx(math.sqrt((2.0 + 8.0) / 3))

    def test_one_seed_each_says_what_is_missing(self) -> None:
        with pytest.raises(TooFewScores, match="two or more seeds"):
            comparable(arms((1.0,), (2.0,)))

    def test_no_score_says_where(self) -> None:
        with pytest.raises(TooFewScores, match="no score at 1"):
            comparable(arms((1.0, 2.0), ()))

    def test_what_a_seed_does_to_every_arm_is_no_spread(self) -> None:
        seeds = (0, 1, 2)
        a, b = Arm("a", (0.1, 0.9, 0.5), seeds), Arm("b", (0.2, 1.0, 0.6), seeds)
        found = comparable([a, b])
        assert found.spread.sd == pytest.approx(0.0, abs=1e-12)
        assert found.spread.df == 2
        assert found.blocks == pytest.approx(0.4)
        assert against_best([a, b], 0.2).verdict == "inconclusive"  # nothing to judge by
        bare = [Arm("a", a.scores), Arm("b", b.scores)]
        assert against_best(bare, 0.2).verdict == "inconclusive"

    def test_two_arms_on_common_seeds_are_the_paired_t_test(self) -> None:
        random = np.random.default_rng(5)
        a, b = random.normal(0.3, 1, 9), random.normal(0.0, 1, 9)
        seeds = tuple(range(9))
        pair = [Arm("a", tuple(a), seeds), Arm("b", tuple(b), seeds)]
        one = against_control(pair, pair[1], margin=1.0).arms[0]
        theirs = stats.ttest_rel(a, b).confidence_interval(0.95)
        assert (one.low, one.high) == pytest.approx((theirs.low, theirs.high), abs=1e-3)

    def test_only_common_seeds_are_compared(self) -> None:
        a, b = Arm("a", (1.0, 2.0, 9.0), (0, 1, 2)), Arm("b", (2.1, 1.0, 5.0), (1, 0, 7))
        found = comparable([a, b])
        assert [arm.scores for arm in found.arms] == [(1.0, 2.0), (1.0, 2.1)]
        with pytest.raises(TooFewScores, match="two common seeds"):
            comparable([a, Arm("c", (1.0, 2.0), (5, 6))])

    def test_unequal_spreads_are_noticed(self) -> None:
        quiet, loud = (0.0, 0.1, -0.1, 0.05, -0.05), (0.0, 5.0, -5.0, 4.0, -6.0)
        assert spread_differs_p(arms(quiet, loud)) < 0.05
        assert spread_differs_p(arms(quiet, quiet)) > 0.5
        assert spread_differs_p(arms((1.0, 1.0, 1.0), (2.0, 2.0, 2.0))) == 1.0


class TestCriticalValues:
    def test_one_mean_is_students_t(self) -> None:
        assert maximum_modulus(0.95, 1, 7) == pytest.approx(stats.t.ppf(0.975, 7), abs=1e-3)

    def test_maximum_modulus_matches_the_published_table(self) -> None:
        # Stoline and Ury 1979: 5 %, 6 means, 12 degrees of freedom.
        assert maximum_modulus(0.95, 6, 12) == pytest.approx(3.095, abs=0.01)

    @pytest.mark.parametrize("sizes", [(5, 5, 5, 5), (3, 5, 9, 4)])
    def test_dunnett_matches_scipy(self, sizes: tuple[int, ...]) -> None:
        random = np.random.default_rng(0)
        samples = [random.standard_normal(n) for n in sizes]
        control = random.standard_normal(6)
        df = sum(sizes) + 6 - len(sizes) - 1
        spread = comparable([Arm("", tuple(x)) for x in (*samples, control)]).spread
        interval = stats.dunnett(*samples, control=control, rng=1).confidence_interval(0.95)
        errors = np.array([spread.sd * math.sqrt(1 / n + 1 / 6) for n in sizes])
        theirs = (interval.high - interval.low) / 2 / errors
        assert theirs == pytest.approx(dunnett(0.95, sizes, 6, df), abs=0.02)

    def test_tukey_of_a_pair_is_students_t(self) -> None:
        assert tukey(0.95, 2, 9) == pytest.approx(stats.t.ppf(0.975, 9), abs=1e-4)


class TestEquivalence:
    def test_tost_matches_two_t_tests(self) -> None:
        random = np.random.default_rng(3)
        a, b = random.normal(0.2, 1, 12), random.normal(0.0, 1, 12)
        spread = comparable(arms(tuple(a), tuple(b))).spread
        error = spread.sd * math.sqrt(2 / 12)
        ours = tost_p(np.array([a.mean() - b.mean()]), np.array([error]), spread.df, 1.0)
        lower = stats.ttest_ind(a, b - 1.0, alternative="greater").pvalue
        upper = stats.ttest_ind(a, b + 1.0, alternative="less").pvalue
        assert ours[0] == pytest.approx(max(lower, upper))

    def test_holm_by_hand(self) -> None:
        assert holm(np.array([0.04, 0.01, 0.03])) == pytest.approx([0.06, 0.03, 0.06])

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
    def test_holm_lies_between_the_p_values_and_bonferroni(self, values: list[float]) -> None:
        p = np.array(values)
        adjusted = holm(p)
        assert (adjusted >= p).all()
        assert (adjusted <= np.minimum(p * len(p), 1.0) + 1e-12).all()

    def test_flat_drop_and_too_few(self) -> None:
        near, low = (0.50, 0.51, 0.49, 0.50, 0.50), (0.30, 0.31, 0.29, 0.30, 0.30)
        result = against_best(arms(near, near, low), margin=0.05)
        assert [arm.verdict for arm in result.arms] == ["equivalent", "different"]
        assert result.verdict == "different"
        wide = (0.3, 0.7, 0.5)
        assert against_best(arms(wide, wide), margin=0.05).verdict == "inconclusive"

    def test_no_spread_at_all_decides_nothing(self) -> None:
        result = against_best(arms((1.0, 1.0), (0.99, 0.99), (0.5, 0.5)), margin=0.1)
        assert [arm.verdict for arm in result.arms] == ["inconclusive", "inconclusive"]

    def test_the_control_may_be_anywhere(self) -> None:
        some = arms((1.0, 1.1, 0.9), (2.0, 2.1, 1.9), (1.0, 1.1, 0.9))
        result = against_control(some, some[1], margin=0.4)
        assert [arm.name for arm in result.arms] == ["0", "2"]
        assert result.verdict == "different"
        assert all(arm.high < 0 for arm in result.arms)

    @settings(deadline=None, max_examples=50)
    @given(SCORES, SCORES, st.floats(0.01, 10))
    def test_adding_a_constant_changes_no_verdict(
        self, a: list[float], b: list[float], margin: float
    ) -> None:
        first = against_best(arms(tuple(a), tuple(b)), margin)
        moved = arms(tuple(x + 64 for x in a), tuple(x + 64 for x in b))
        second = against_best(moved, margin)
        p = first.arms[0].p_equivalent
        if abs(p - 0.05) > 1e-6 and abs(first.arms[0].high) > 1e-6:
            assert first.verdict == second.verdict


class TestPower:
    def test_more_seeds_and_wider_margins_help(self) -> None:
        assert flat_power(12, 5, 2.0) < flat_power(12, 12, 2.0) < flat_power(12, 12, 3.0)
        assert drop_power(12, 3, 2.0) < drop_power(12, 8, 2.0)

    def test_the_seeds_asked_for_are_just_enough(self) -> None:
        seeds = seeds_for_flat(4, sd=1.0, margin=2.0)
        assert seeds is not None
        assert flat_power(4, seeds, 2.0) >= 0.8 > flat_power(4, seeds - 1, 2.0)

    def test_a_margin_below_resolution_has_no_answer(self) -> None:
        assert seeds_for_flat(12, sd=1.0, margin=0.05) is None


class TestPairedBootstrap:
    def test_matches_scipy_on_one_seed(self) -> None:
        random = np.random.default_rng(0)
        a, b = random.normal(0.6, 1, (80, 1)), random.normal(0.2, 1, (80, 1))
        ours = paired_bootstrap(a, b, resamples=4000)
        theirs = stats.bootstrap(
            ((a - b)[:, 0],), np.mean, method="percentile", n_resamples=4000, rng=1
        ).confidence_interval
        assert ours.estimate == pytest.approx((a - b).mean())
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)

    def test_seeds_of_one_question_are_no_new_questions(self) -> None:
        random = np.random.default_rng(0)
        one = random.normal(size=(40, 1))
        few = paired_bootstrap(one, np.zeros_like(one))
        many = paired_bootstrap(np.repeat(one, 9, axis=1), np.zeros((40, 9)))
        assert (many.low, many.high) == pytest.approx((few.low, few.high))

    def test_weights_are_the_ratio_estimator(self) -> None:
        a, b = np.array([[1.0], [3.0]]), np.array([[0.0], [0.0]])
        assert paired_bootstrap(a, b, np.array([3.0, 1.0])).estimate == pytest.approx(1.5)

    def test_one_question_is_refused(self) -> None:
        with pytest.raises(TooFewScores, match="two or more"):
            paired_bootstrap(np.ones((1, 3)), np.zeros((1, 3)))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_the_front_is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    front = {points[i] for i in pareto_front([(float(s), float(c)) for s, c in points])}
    naive = {
        (s, c)
        for s, c in points
        if not any((t >= s and d <= c) and (t > s or d < c) for t, d in points)
    }
    assert front == naive


def test_intervals_widen_for_arms_with_fewer_seeds() -> None:
    few, many = simultaneous_intervals(arms((0.0, 1.0), (0.0, 1.0, 0.0, 1.0, 0.0, 1.0)))
    assert few.high - few.low > many.high - many.low


def test_simulated_error_rates_and_coverage() -> None:
    """A smaller version of the recorded simulation; the bound is that of its own chance."""
    for rate in run(400, seeds=(5,)):
        assert _holds(rate), table([rate])


def _holds(rate: Rate) -> bool:
    lower, upper = rate.bound("lower"), rate.bound("upper")
    if rate.promised == "at most 0.05":
        return lower <= 0.05
    if rate.promised == "0.95":
        return lower <= 0.95 <= upper + 0.01
    if rate.promised.startswith(">="):
        return upper >= float(rate.promised.removeprefix(">= ")) - 0.005
    if rate.promised == "none made":
        return rate.rate < 0.3
    return lower - 0.03 <= float(rate.promised) <= upper + 0.03
