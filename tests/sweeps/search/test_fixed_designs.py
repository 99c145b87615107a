"""Fixed designs: which trials they ask for, stage by stage, and what a grown study keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import optuna
import pytest
from optuna.trial import TrialState

from sweeps.config.study_config import ArmName, NuisanceConfig, StudyConfig
from sweeps.report.arms import winner
from sweeps.report.trial_row import TrialRow
from sweeps.search.attempt_records import queue_points
from sweeps.search.design import Design, DesignPoint, DesignSpace, Plan
from sweeps.search.fixed_designs import DataDesign, DropDesign, MethodsDesign, SensitivityDesign

ONE = ((1, 1e-3),)
TWO = ((1, 1e-3), (2, 1e-3))
RATIOS = (0.0, 0.5, 0.9)
EIGHT = get_args(ArmName)


def plan(combinations: tuple[tuple[int, float], ...] = ONE, seeds: int = 3) -> Plan:
    return Plan(7, seeds, tuning_seeds=1, fresh_seeds=2, combinations=combinations)


def row(point: DesignPoint, score: float | None, number: int = 0) -> TrialRow:
    return TrialRow(
        number=number,
        key=f"k{number}",
        state="failed" if score is None else "finished",
        mask_ratio=point.mask_ratio,
        accumulation_interval=point.accumulation_interval,
        learning_rate=point.learning_rate,
        seed=point.seed,
        score=score,
        step=1,
        steps=1,
        seconds=1.0,
        method=point.method,
        stage=point.stage,
        train_fraction=point.train_fraction,
    )


def run(design: Design, score: Callable[[DesignPoint], float | None]) -> list[TrialRow]:
    """Every trial the design asks for, as a study would run them."""
    rows: list[TrialRow] = []
    while True:
        done = {DesignPoint.of(r) for r in rows}
        missing = [p for p in design.points(rows) if p not in done]
        if not missing:
            return rows
        rows += [row(p, score(p), len(rows) + i) for i, p in enumerate(missing)]


def test_sensitivity_runs_every_ratio_with_the_same_seeds_then_fresh_ones() -> None:
    rows = run(SensitivityDesign(plan(), RATIOS, "gmt"), lambda p: p.mask_ratio)
    grid = [r for r in rows if r.stage == "replicate"]
    assert {(r.mask_ratio, r.seed) for r in grid} == {(m, s) for m in RATIOS for s in (7, 8, 9)}
    assert {r.method for r in grid if r.mask_ratio == 0} == {"sft"}
    fresh = [r for r in rows if r.stage == "fresh"]
    assert {r.mask_ratio for r in fresh} == {0.0, 0.9}
    assert not {r.seed for r in fresh} & {r.seed for r in grid}
    assert len(fresh) == 4


def test_every_ratio_gets_its_own_best_nuisance_parameters_at_equal_budget() -> None:
    def score(p: DesignPoint) -> float:
        return float((p.accumulation_interval == 2) == (p.mask_ratio > 0.6))

    rows = run(SensitivityDesign(plan(TWO), RATIOS, "gmt"), score)
    tuning = [r for r in rows if r.stage == "tuning"]
    assert len(tuning) == len(RATIOS) * len(TWO)
    chosen = {r.mask_ratio: r.accumulation_interval for r in rows if r.stage == "replicate"}
    assert chosen == {0.0: 1, 0.5: 1, 0.9: 2}
    others = {r.seed for r in rows if r.stage != "tuning"}
    assert not others & {r.seed for r in tuning}


def test_a_combination_that_failed_is_not_chosen() -> None:
    rows = run(
        SensitivityDesign(plan(TWO), RATIOS, "gmt"),
        lambda p: None if p.accumulation_interval == 2 else -5.0,
    )
    assert {r.accumulation_interval for r in rows if r.stage == "replicate"} == {1}


def test_failed_replicates_do_not_hold_the_study_up() -> None:
    rows = run(SensitivityDesign(plan(), RATIOS, "gmt"), lambda p: None)
    assert {r.stage for r in rows} == {"replicate"}
    assert winner(RATIOS, rows) is None


def test_more_seeds_only_add_trials() -> None:
    few = run(SensitivityDesign(plan(seeds=2), RATIOS, "gmt"), lambda p: p.mask_ratio)
    more = SensitivityDesign(plan(seeds=4), RATIOS, "gmt")
    asked = set(more.points(few))
    assert {DesignPoint.of(r) for r in few if r.stage == "replicate"} <= asked
    assert len(asked) == len(RATIOS) * 4


def test_the_winner_is_masked_and_only_fresh_models_are_tested() -> None:
    design = SensitivityDesign(plan(), RATIOS, "gmt")
    rows = run(design, lambda p: -p.mask_ratio)
    tested = design.tested(rows)
    assert {(r.mask_ratio, r.stage) for r in tested} == {(0.0, "fresh"), (0.5, "fresh")}
    assert all(design.keeps_model(r) for r in tested)
    assert not any(design.keeps_model(r) for r in rows if r.stage == "replicate")


def test_methods_share_data_seeds_and_budget() -> None:
    design = MethodsDesign(plan(), StudyConfig().arm_ratios((0.4,)))
    rows = run(design, lambda p: 0.0)
    seeds = {m: {r.seed for r in rows if r.method == m} for m in {r.method for r in rows}}
    assert seeds.pop("pretrained") == {7}
    assert set(seeds) == {"sft", "hft", "random", "gmt", "drop_trivial"}
    assert all(one == {7, 8, 9} for one in seeds.values())
    ratios = {r.method: r.mask_ratio for r in rows}
    assert ratios["random"] == ratios["gmt"] == ratios["drop_trivial"] == 0.4
    assert len(design.tested(rows)) == len(rows)


def test_eight_arms_tune_their_own_parameters_at_equal_budget() -> None:
    study = StudyConfig.model_validate({"arms": EIGHT})
    nuisance = NuisanceConfig.model_validate(
        {"accumulation_interval": 1, "learning_rate": [1e-3, 3e-3]}
    )
    combinations = tuple(nuisance.combinations())
    whole = Plan(7, 3, 1, 2, combinations, study.arm_combinations(nuisance))
    rows = run(MethodsDesign(whole, study.arm_ratios((0.4,))), lambda p: p.learning_rate)
    tuned = {
        m: sorted(r.learning_rate for r in rows if r.method == m and r.stage == "tuning")
        for m in {r.method for r in rows}
    }
    assert tuned.pop("lora") == [1e-2, 3e-2]
    assert [tuned.pop(m) for m in ("pretrained", "drop_trivial", "dare")] == [[], [], []]
    assert set(tuned) == {"sft", "hft", "random", "gmt", "shira"}
    assert all(rates == [1e-3, 3e-3] for rates in tuned.values())
    last = [r for r in rows if r.stage == "replicate"]
    ends = {
        m: {(r.mask_ratio, r.learning_rate, r.seed) for r in last if r.method == m}
        for m in ("lora", "shira", "dare")
    }
    assert ends["lora"] == {(0.0, 3e-2, seed) for seed in (7, 8, 9)}
    assert ends["shira"] == {(0.98, 3e-3, seed) for seed in (7, 8, 9)}
    assert ends["dare"] == {(0.9, 3e-3, seed) for seed in (7, 8, 9)}


def tuned(rows: list[TrialRow], method: str) -> list[tuple[float, float, int]]:
    return sorted(
        (r.mask_ratio, r.learning_rate, r.seed)
        for r in rows
        if r.method == method and r.stage == "tuning"
    )


def test_each_arm_tunes_its_ratio_on_seeds_that_no_replicate_uses() -> None:
    """The replicates of Random Mask are best at 0.1, which its tuning seeds do not say."""
    ratios = StudyConfig().arm_ratios((0.1, 0.3))

    def score(p: DesignPoint) -> float:
        if p.stage == "replicate":
            return -p.mask_ratio
        best = {"gmt": 0.1, "random": 0.3, "drop_trivial": 0.3}
        return float(p.mask_ratio == best.get(p.method))

    design = MethodsDesign(plan(((1, 1e-3), (1, 2e-3))), ratios)
    rows = run(design, score)
    assert design.ratios(rows) == {
        **{"sft": 0.0, "hft": 0.0},
        **{"random": 0.3, "gmt": 0.1, "drop_trivial": 0.3},
    }
    last = {(r.method, r.mask_ratio) for r in rows if r.stage == "replicate"}
    assert {("gmt", 0.1), ("random", 0.3), ("drop_trivial", 0.3)} <= last
    assert ("gmt", 0.3) not in last
    # Equal budget: two ratios x two rates, or two rates with two seeds each.
    assert {m: len(tuned(rows, m)) for m in ("sft", "hft", "random", "gmt")} == dict.fromkeys(
        ("sft", "hft", "random", "gmt"), 4
    )
    assert len({seed for *_, seed in tuned(rows, "sft")}) == 2
    assert len({seed for *_, seed in tuned(rows, "gmt")}) == 1
    # Drop rates are tuned on the models of the first tuning seeds, which are kept for it.
    assert [rate for rate, *_ in tuned(rows, "drop_trivial")] == [0.1, 0.3]
    kept = [r for r in rows if r.stage == "tuning" and design.keeps_model(r)]
    assert {(r.method, r.seed) for r in kept} == {("sft", 7 + 2_000_000)}
    others = {r.seed for r in rows if r.stage != "tuning"}
    assert not others & {r.seed for r in rows if r.stage == "tuning"}


def test_drop_rates_are_tuned_on_sft_models_even_if_sft_has_nothing_to_tune() -> None:
    ratios = StudyConfig(arms={"sft": {}, "drop_trivial": {}}).arm_ratios((0.1, 0.3))
    rows = run(MethodsDesign(plan(), ratios), lambda p: p.mask_ratio)
    assert len(tuned(rows, "sft")) == 1
    assert len(tuned(rows, "drop_trivial")) == 2
    ends = {r.mask_ratio for r in rows if r.method == "drop_trivial" and r.stage == "replicate"}
    assert ends == {0.3}


def test_a_given_ratio_is_not_tuned() -> None:
    rows = run(MethodsDesign(plan(), StudyConfig().arm_ratios((0.4,))), lambda p: p.mask_ratio)
    assert {r.stage for r in rows} == {"replicate"}


def test_a_drop_follows_from_each_sft_model() -> None:
    design = DropDesign(plan(), (0.5, 0.1))
    rows = run(design, lambda p: 0.0)
    drops = {(r.method, r.mask_ratio, r.seed) for r in rows if r.method.startswith("drop")}
    assert len(drops) == 3 * 2 * 3
    assert [r.method for r in rows if design.keeps_model(r)] == ["sft"] * 3


def test_no_drop_of_an_sft_run_that_failed() -> None:
    rows = run(DropDesign(plan(), (0.5,)), lambda p: None if p.seed == 8 else 0.0)
    assert {r.seed for r in rows if r.method == "drop_trivial"} == {7, 9}


def test_data_has_every_method_on_every_share() -> None:
    rows = run(DataDesign(plan(), 0.4, (0.1, 1.0)), lambda p: 0.0)
    assert {(r.method, r.train_fraction) for r in rows} == {
        (m, f) for m in ("sft", "hft", "random", "gmt") for f in (0.1, 1.0)
    }


@pytest.mark.parametrize(
    "design",
    [
        SensitivityDesign(plan(), RATIOS, "gmt"),
        MethodsDesign(plan(), StudyConfig(arms=EIGHT).arm_ratios((0.4,))),
        DropDesign(plan(), (0.2, 0.4)),
        DataDesign(plan(), 0.4, (0.1, 1.0)),
    ],
)
def test_a_design_names_what_tells_its_arms_apart(design: Design) -> None:
    rows = run(design, lambda p: p.mask_ratio)
    ends = [r for r in rows if r.stage == "replicate"]
    assert ends
    arms = {(r.method, r.mask_ratio, r.train_fraction) for r in ends}
    assert len({tuple(getattr(r, name) for name in design.arms) for r in ends}) == len(arms)


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(direction="maximize")


def test_points_are_queued_once_and_come_back_unchanged(study: optuna.Study) -> None:
    design = SensitivityDesign(plan(), RATIOS, "gmt")
    points = design.points([])
    wanted = [p.params() for p in points]
    assert queue_points(study, wanted) == len(points)
    assert queue_points(study, wanted) == len(points)
    space = DesignSpace()
    drawn = []
    for _ in points:
        trial = study.ask()
        drawn.append(space.suggest(trial))
        study.tell(trial, 0.0)
    assert drawn == wanted
    assert queue_points(study, wanted) == 0
    assert {t.state for t in study.trials} == {TrialState.COMPLETE}
