"""Methods side by side, drops, less data, efficiency, best ratio, and the page over all."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from sweeps.report.arm_comparison import against_control
from sweeps.report.arms import Arm
from sweeps.report.comparison_page import drawn_of
from sweeps.report.comparison_page import page as comparison_page
from sweeps.report.drawing import canvas, svg
from sweeps.report.efficiency_page import efficiency, relative_speed
from sweeps.report.efficiency_page import verdict as told_speeds
from sweeps.report.methods_page import (
    ComparisonData,
    arms_of,
    methods_on_test,
    papers_gains,
    versus_sft,
)
from sweeps.report.page import Drawn, Page
from sweeps.report.paper_page import PaperDomain, best_ratio, page
from sweeps.report.published import (
    BEST_RATIO,
    DROP_CLAIM,
    gains,
    groups,
    published_scores,
    published_speeds,
    relative_speeds,
    scores,
)
from sweeps.report.trial_row import NO_VALUE, ScoreLabel, TrialRow, benchmark_entries
from sweeps.report.write_report import write_files

RATIO = 0.4
METHODS = {"sft": 0.0, "hft": 0.0, "random": RATIO, "gmt": RATIO, "drop_trivial": RATIO}
EIGHT = METHODS | {"lora": 0.0, "shira": 0.98, "dare": 0.9}


def row(method: str, ratio: float, seed: int, score: float, fraction: float = 1.0) -> TrialRow:
    return TrialRow(
        number=seed,
        key=f"{method}{ratio}{seed}{fraction}",
        state="finished",
        mask_ratio=ratio,
        accumulation_interval=1,
        learning_rate=1e-3,
        seed=seed,
        score=score,
        step=1,
        steps=1,
        seconds=60.0,
        method=method,
        stage="replicate",
        train_fraction=fraction,
    )


def data(kind: str, rows: tuple[TrialRow, ...], **changes: object) -> ComparisonData:
    fixed = {"name": "mini", "domain": "math", "label": ScoreLabel("accuracy"), "config_yaml": ""}
    changes = {"mask_ratio": RATIO, "arms": METHODS, **fixed, **changes}
    return ComparisonData(kind=kind, rows=rows, **changes)  # type: ignore[arg-type]


def methods_rows(gap: float) -> tuple[TrialRow, ...]:
    generator = random.Random(1)
    return (
        *(
            row(method, ratio, seed, generator.gauss(0.6 + gap * (method == "gmt"), 0.01))
            for method, ratio in METHODS.items()
            for seed in range(5)
        ),
        row("pretrained", 0.0, 0, 0.1),
    )


def test_methods_have_a_row_each_with_test_scores_over_seeds() -> None:
    rows = methods_rows(0.2)
    tests = {r.key: benchmark_entries("sums", 0.5 + 0.01 * r.seed, 0.1, 50) for r in rows}
    part = drawn_of(data("methods", rows, tests=tests))
    assert part.figure is not None
    for name in ("Pre-trained", "SFT", "One-off Drop", "HFT", "Random Mask", "GMT"):
        assert f"<td>{name}</td>" in part.table
    assert "test, sums" in part.table
    assert "0.520" in part.table  # the mean of five seeds
    assert "different" in part.table


def test_each_arm_shows_what_it_trains_takes_and_forgets() -> None:
    forgotten = {"pretrained": 1.0, "sft": 1.5, "lora": 1.25, "dare": 1.125}
    rows = []
    for method, ratio in {"pretrained": 0.0, **EIGHT}.items():
        metrics = {"forgetting/bits_per_byte": forgotten.get(method, 2.0)}
        if method not in ("pretrained", "drop_trivial", "dare"):
            metrics |= {"cost/trained_share": 1.0 - ratio, "cost/peak_memory_gib": 0.5}
        rows += [
            replace(row(method, ratio, seed, 0.5 + seed / 100), metrics=metrics)
            for seed in range(2)
        ]
    found = cells(drawn_of(data("methods", tuple(rows), arms=EIGHT)).table)
    assert list(found) == [
        *("Pre-trained", "SFT", "One-off Drop", "HFT", "Random Mask", "GMT"),
        *("LoRA", "SHiRA 0.98", "DARE 0.9"),
    ]
    assert found["SFT"][-3:] == ["1", "0.50", "+0.500"]
    assert found["LoRA"][-1] == "+0.250"
    assert found["SHiRA 0.98"][-3] == "0.02"
    assert found["DARE 0.9"][-3:] == [NO_VALUE, NO_VALUE, "+0.125"]
    plain = drawn_of(data("methods", methods_rows(0.1)))
    assert "forgetting" not in plain.table
    assert "peak memory" not in plain.table


def cells(table: str) -> dict[str, list[str]]:
    """The cells of each row by its first one."""
    rows = [re.findall(r"<td>([^<]*)</td>", line) for line in table.split("<tr")]
    return {first: rest for first, *rest in filter(None, rows)}


def test_sft_is_the_control_and_not_an_arm_compared_with_it() -> None:
    study = data("methods", methods_rows(0.1), margin=0.05)
    found = cells(drawn_of(study).table)
    assert found["SFT"][5:8] == [NO_VALUE] * 3
    trained = [arms_of(study)[name] for name in ("SFT", "HFT", "Random Mask", "GMT")]
    alone = against_control(trained, trained[0], 0.05, 0.05 * 3 / 4)
    spans = [study.label.interval(one, signed=True) for one in alone.arms]
    assert [found[one.name][6] for one in alone.arms] == spans


def test_a_difference_below_resolution_is_called_so() -> None:
    part = drawn_of(data("methods", methods_rows(0.0)))
    assert "not resolved" in part.table
    assert "different" not in part.table
    assert "equivalent" in drawn_of(data("methods", methods_rows(0.0), margin=0.05)).table


def test_the_verdict_on_methods_is_that_of_the_table() -> None:
    said = comparison_page(data("methods", methods_rows(0.2))).leads[0][0]
    assert said.startswith("Against SFT, on validation items, 5 seeds each: different: GMT (+0.2")
    assert said.endswith("; not resolved: HFT, Random Mask, One-off Drop.")
    close = comparison_page(data("methods", methods_rows(0.0), margin=0.05)).leads[0][0]
    assert "equivalent: " in close and "different" not in close
    bare = comparison_page(data("methods", (row("sft", 0.0, 0, 0.5),))).leads[0][0]
    assert bare == "No verdict yet. Requires two methods with two seeds each."


def test_curves_are_told_at_their_ends_and_nothing_is_claimed() -> None:
    rows = [row("sft", 0.0, seed, 0.6 + seed / 100) for seed in range(3)]
    for rule in ("drop_trivial", "drop_random", "drop_salient"):
        rows += [
            row(rule, rate, seed, 0.5 - rate / 10) for rate in (0.3, 0.9) for seed in range(3)
        ]
    said = comparison_page(data("drop", tuple(rows), drop_rates=(0.3, 0.9))).leads[0][0]
    assert "over 3 seeds" in said and "SFT 0.610" in said
    assert "at drop rate 0.9: smallest changes dropped 0.410" in said
    assert said.endswith("No test compares them.")
    less = tuple(
        row(m, r, s, 0.5 + f / 10, f)
        for m, r in METHODS.items()
        for f in (0.1, 1.0)
        for s in (0, 1)
    )
    assert "GMT 0.510" in comparison_page(data("data", less, fractions=(0.1, 1.0))).leads[0][0]
    assert comparison_page(data("drop", (), drop_rates=(0.3,))).leads[0][0].startswith("No result")


def test_methods_without_seeds_say_what_is_missing() -> None:
    part = drawn_of(data("methods", (row("sft", 0.0, 0, 0.5),)))
    assert part.figure is None
    assert "two seeds" in part.caption


def test_drops_have_three_curves_and_gmt_where_it_was_trained() -> None:
    rates = (0.3, 0.9)
    rows = [row("sft", 0.0, seed, 0.6) for seed in range(3)]
    for rule in ("drop_trivial", "drop_random", "drop_salient"):
        rows += [row(rule, rate, seed, 0.5) for rate in rates for seed in range(3)]
    bare = drawn_of(data("drop", tuple(rows), drop_rates=rates))
    assert "GMT's curve is missing" in bare.caption
    trained = tuple(row("gmt", rate, seed, 0.55) for rate in rates for seed in range(3))
    part = drawn_of(data("drop", tuple(rows), drop_rates=rates, sensitivity=trained))
    assert "GMT, trained" in part.table
    assert part.table.count("<tr>") == 1 + 3 * 3 + 2
    assert "No SFT model" in drawn_of(data("drop", (), drop_rates=rates)).caption


def test_less_data_has_a_curve_for_each_method() -> None:
    rows = tuple(
        row(method, ratio, seed, 0.5 + fraction / 10, fraction)
        for method, ratio in METHODS.items()
        for fraction in (0.1, 1.0)
        for seed in range(2)
        if not method.startswith("drop")
    )
    part = drawn_of(data("data", rows, fractions=(0.1, 1.0)))
    assert part.figure is not None
    assert part.table.count("<tr>") == 1 + 4 * 2


MEASURED = {
    "sft": {"seconds": [1.0, 2.0, 4.0], "flops": 1e9, "examples": 8},
    "random": {"seconds": [1.25, 2.5, 5.0], "flops": 1e9, "examples": 8},
    "gmt": {"seconds": [2.0, 4.0, 8.0], "flops": 1e9, "examples": 8},
}


class TestEfficiency:
    def test_rounds_are_pairs(self) -> None:
        """A machine that slows down by itself changes no ratio."""
        speed = relative_speed(MEASURED, "gmt")
        assert (speed.low, speed.estimate, speed.high) == (0.5, 0.5, 0.5)

    def test_the_interval_covers_the_median(self) -> None:
        ours = np.random.default_rng(0).normal(1.25, 0.1, 30).tolist()
        measured = {"sft": {"seconds": [1.0] * 30}, "gmt": {"seconds": ours}}
        speed = relative_speed(measured, "gmt")
        assert speed.low < 0.8 < speed.high

    def test_the_speeds_are_told_first(self) -> None:
        assert told_speeds(MEASURED, "a CPU") == (
            "Samples per second relative to SFT, median of 3 rounds on a CPU: Random Mask 0.800 "
            "(95 % not estimable), GMT 0.500 (95 % not estimable)."
        )

    def test_the_paper_stands_beside(self) -> None:
        part = efficiency(MEASURED, "a CPU")
        assert "0.877" in part.table  # 13.43 / 15.32
        assert "other machines" in part.caption


def test_published_numbers_are_the_papers() -> None:
    speeds = relative_speeds()
    assert 1 - speeds["Mistral-7B, code"]["GMT"] == pytest.approx(0.123, abs=0.001)
    assert 1 - speeds["Llama2-13B, general"]["GMT"] == pytest.approx(0.058, abs=0.001)
    assert len(BEST_RATIO) == 6
    assert sum(BEST_RATIO.values()) == pytest.approx(1.4)
    sums = {
        group: (len(rows), round(sum(sum(scores(row)) for row in rows), 1))
        for group, rows in groups(1, 2).items()
    }
    assert sums == SUMS


SUMS = {
    "Mistral-7B, code": (6, 1324.4),
    "Mistral-7B, math": (5, 516.4),
    "DeepSeek-Coder-Base-6.7B, code": (6, 1652.1),
    "Llama3-8B, math": (5, 543.1),
    "Llama2-7B, general": (5, 1234.2),
    "Llama2-13B, general": (5, 1457.9),
}
"""How many methods each group has, and the sum of their scores."""


ROUNDED_OTHERWISE = {("Llama2-7B, general", "SFT"), ("Llama2-7B, general", "Random Mask")}
"""The paper prints 41.0 and 43.4 where its rows give 40.9 and 43.5."""


def test_printed_averages_are_those_of_their_rows() -> None:
    found = {
        (group, row["method"])
        for group, rows in groups(1, 2).items()
        for row in rows
        if "Average" in row and abs(sum(scores(row)) / len(scores(row)) - row["Average"]) > 0.0501
    }
    assert found == ROUNDED_OTHERWISE


def test_the_papers_tables_stand_beside_ours() -> None:
    shown = published_scores()
    assert shown.table.count("<table>") == 6
    assert "<th>HumanEval+</th>" in shown.table
    assert published_speeds().table.count("<table>") == 2
    assert gains()["GMT"] == pytest.approx([1.15, 2.4, 0.975, 3.35, 3.1, 3.2167], abs=1e-3)
    beside = cells(papers_gains(data("methods", methods_rows(0.2))).table)
    assert beside["GMT"][1] == "+1.0 to +3.4"
    assert beside["GMT"][0].startswith("+0.2")
    assert "degrades the model significantly once the rate reaches 0.8" in DROP_CLAIM


def test_methods_on_test_items_are_paired_with_sft() -> None:
    rows = methods_rows(0.0)
    items = {
        r.key: {"sums": [[str(i), float(r.method == "gmt" or i < 10), 1.0] for i in range(20)]}
        for r in rows
    }
    found = re.findall(
        r"<td>(.*?)</td>", methods_on_test(data("methods", rows, items=items)).table, flags=re.S
    )
    gmt = found.index("GMT")
    assert found[gmt : gmt + 2] == ["GMT", "+0.500"]
    assert re.fullmatch(r"\+0\.\d+ to \+0\.\d+", found[gmt + 2])
    assert found[gmt + 3 : gmt + 7] == ["sums", "1.000", "0.500", "20"]
    hft = found.index("HFT")
    assert found[hft + 1 : hft + 3] == ["+0.000", "not estimable"]
    assert "not been read" in methods_on_test(data("methods", rows)).caption


def test_a_page_keeps_what_makes_a_study_honest() -> None:
    generator = random.Random(3)
    spreads = {"gmt": 0.2}
    loud = tuple(
        row(method, ratio, seed, 0.5 + generator.gauss(0, spreads.get(method, 0.001)))
        for method, ratio in METHODS.items()
        for seed in range(12)
    )
    study = data("methods", loud, margin=0.05, declared="preregistered on Monday")
    html = comparison_page(study).html()
    assert "preregistered on Monday" in html
    assert "Brown-Forsythe" in html
    assert "What this report does not say" in html
    assert "Tables 1 and 2" in html


def test_what_derives_from_sft_is_compared_by_its_own_pairs() -> None:
    """A drop varies with its SFT model, so it must not narrow the intervals of the others."""
    generator, seeds = np.random.default_rng(4), tuple(range(6))
    drawn = generator.normal(0.5, 0.1, (3, 6))
    sft, hft, gmt = (Arm(n, tuple(x), seeds) for n, x in zip("shg", drawn, strict=True))
    drop = Arm("d", tuple(drawn[0] + generator.normal(0.0, 0.001, 6)), seeds)
    found = versus_sft([sft, hft, gmt], [drop], sft, margin=0.1)
    assert list(found) == ["h", "g", "d"]
    theirs = stats.ttest_rel(drop.scores, sft.scores).confidence_interval(1 - 0.05 / 3)
    assert (found["d"].low, found["d"].high) == pytest.approx((theirs.low, theirs.high), abs=1e-5)
    alone = against_control([sft, hft, gmt], sft, 0.1, 0.05 * 2 / 3)
    assert [found["h"], found["g"]] == list(alone.arms)


def test_the_ratio_and_the_budget_that_chose_it_are_in_the_table() -> None:
    tuning = tuple(
        replace(row("random", ratio, 100 + seed, 0.5), stage="tuning")
        for ratio in (0.2, RATIO)
        for seed in range(2)
    )
    found = cells(drawn_of(data("methods", (*methods_rows(0.1), *tuning))).table)
    assert found["Random Mask"][:2] == ["0.4, best of 2", "4"]
    assert found["GMT"][:2] == ["0.4, given", "0"]
    assert found["SFT"][:2] == [NO_VALUE, "0"]


def test_intervals_of_accuracies_stay_where_accuracies_can_be() -> None:
    label = ScoreLabel.of([("sums", None)])
    near = tuple(
        replace(r, score=min(1.0, 0.99 + 0.01 * r.seed)) if r.method == "gmt" else r
        for r in methods_rows(0.3)
    )
    part = drawn_of(data("methods", near, label=label))
    assert cells(part.table)["GMT"][4].endswith("to 1.000")


def test_an_arm_has_one_interval_in_all_curves() -> None:
    rates, generator = (0.3, 0.9), random.Random(0)
    rows = [row("sft", 0.0, seed, 0.6 + generator.gauss(0, 0.01)) for seed in range(3)]
    for rule, sd in {"drop_trivial": 0.01, "drop_random": 0.05, "drop_salient": 0.1}.items():
        rows += [
            row(rule, rate, seed, generator.gauss(0.5, sd)) for rate in rates for seed in range(3)
        ]
    part = drawn_of(data("drop", tuple(rows), drop_rates=rates))
    lines = [re.findall(r"<td>(.*?)</td>", line) for line in part.table.split("<tr")]
    assert len({line[4] for line in lines if line and line[1] == "0"}) == 1


def test_equal_scores_have_an_axis_that_can_be_read() -> None:
    rows = tuple(replace(r, score=0.1 + 0.2) for r in methods_rows(0.0))
    assert "not estimable" in drawn_of(data("methods", rows)).table
    figure, axes = canvas("ratio", "difference")
    axes.plot([0.0, 1.0], [0.0, 1e-17])  # a difference of equal scores, up to rounding
    svg(figure, "flat")
    assert axes.get_ylim() == pytest.approx((-0.05, 0.05), abs=0.001)
    assert axes.get_xlim() == pytest.approx((-0.05, 1.05), abs=0.001)


def test_best_ratio_names_searches_that_have_none() -> None:
    part = best_ratio(
        {
            "math": (ScoreLabel("accuracy"), row("gmt", 0.3, 0, 0.7), 12),
            "code": (ScoreLabel("accuracy"), None, 0),
        }
    )
    assert "<td>0.3</td>" in part.table
    assert "<td>code</td>" in part.table
    assert "Llama2-13B, general" in part.table


def test_the_page_over_all_is_self_contained(tmp_path: Path) -> None:
    part = drawn_of(data("methods", methods_rows(0.1)))
    domains = [PaperDomain(d, f"{d}: stays open.", "Cost: 3.", (part,)) for d in ("math", "code")]
    shared = [Drawn("best_ratio", "Best mask ratio", "None yet.")]
    whole = page("mini", domains, shared, "name: <mini>\n")
    html = write_files(tmp_path, whole).html.read_text()
    assert html.index("math: stays open.") < html.index("<svg")
    assert html.count("<svg") == 2
    assert "<mini>" not in html
    assert "src=" not in html
    assert {p.name for p in tmp_path.iterdir()} == {
        "report.html",
        "math_methods.png",
        "code_methods.png",
    }


def test_ids_of_two_drawings_in_a_page_differ() -> None:
    part = drawn_of(data("methods", methods_rows(0.1)))
    html = Page("t", [("", "l")], {"": [part]}, "", caveats=["caveat"]).html()
    defined = re.findall(r'<(?:clipPath|path) id="([^"]+)"', html)
    assert len(defined) == len(set(defined))
