"""Methods side by side, drops, less data, efficiency, best ratio, and the page over all."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sweeps.report.efficiency_page import efficiency, relative_speed
from sweeps.report.methods_page import ComparisonData, drawn_of
from sweeps.report.page import Drawn, Page
from sweeps.report.paper_page import PaperDomain, best_ratio, page
from sweeps.report.published import BEST_RATIO, SAMPLES_PER_SECOND
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
    assert "not available" in part.caption


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


def test_a_difference_below_resolution_is_called_so() -> None:
    part = drawn_of(data("methods", methods_rows(0.0)))
    assert "not resolved" in part.table
    assert "different" not in part.table
    assert "equivalent" in drawn_of(data("methods", methods_rows(0.0), margin=0.05)).table


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

    def test_the_paper_stands_beside(self) -> None:
        part = efficiency(MEASURED, "a CPU")
        assert "0.877" in part.table  # 13.43 / 15.32
        assert "other machines" in part.caption


def test_published_numbers_are_the_papers() -> None:
    mistral = SAMPLES_PER_SECOND["Mistral-7B, code"]
    assert 1 - mistral["gmt"] / mistral["sft"] == pytest.approx(0.123, abs=0.001)
    llama = SAMPLES_PER_SECOND["Llama2-13B, general"]
    assert 1 - llama["gmt"] / llama["sft"] == pytest.approx(0.058, abs=0.001)
    assert len(BEST_RATIO) == 6


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
