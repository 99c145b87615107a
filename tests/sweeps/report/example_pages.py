"""A page of each kind, made of plain values."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from sweeps.report import (
    comparison_page,
    efficiency_page,
    paper_page,
    search_page,
    sensitivity_page,
)
from sweeps.report.arms import Interval
from sweeps.report.comparison_page import all_domains
from sweeps.report.page import Drawn, Page, index_page
from sweeps.report.paper_page import PaperDomain, best_ratio
from sweeps.report.published import published_speeds
from sweeps.report.sensitivity import analyse
from sweeps.report.trial_row import PairedTest, ScoreLabel, StudyData, TrialRow, benchmark_entries
from tests.sweeps.report import test_comparison_report as comparison
from tests.sweeps.report import test_report as search_report
from tests.sweeps.report import test_sensitivity_report as sensitivity_report

FACTS = [
    ("model", "HuggingFaceTB/SmolLM2-135M at 93efa2f097d58c2a74874c7e644dbc9b0cee75a2"),
    ("data", "tulu_v2_flan.jsonl, tulu_v2_cot.jsonl"),
    ("score", "gsm8k accuracy, math accuracy"),
    ("date", "2026-11-29 to 2026-11-30"),
    ("commit", "deeffa9"),
]
AGAIN = [("To continue, or to train what is missing", "python -m sweeps resume /data/runs/mini")]
SIX = [(name, "accuracy") for name in ("gsm8k", "math", "svamp", "asdiv", "mawps", "aqua")]
RATES = (0.3, 0.9)
FRACTIONS = (0.1, 0.3, 1.0)


def trial(number: int, draw: random.Random) -> TrialRow:
    score = 0.6 + 0.1 * draw.random()
    row = replace(
        search_report.row(number, number % 10 / 10, score),
        learning_rate=10 ** draw.uniform(-5, -3),
        others={
            "optimizer": ("adamw", "adafactor")[number % 2],
            "warmup_ratio": draw.uniform(0, 0.2),
        },
        metrics={
            "objective/seconds": 10 + number / 3,
            "validation/low": score - 0.06,
            "validation/high": score + 0.06,
        },
    )
    if number % 7 == 3:
        return replace(row, state="stopped_early", step=50)
    return replace(row, state="failed", score=None, step=20) if number == 12 else row


def searched() -> StudyData:
    draw = random.Random(0)
    rows = tuple(trial(number, draw) for number in range(30))
    best = max((row for row in rows if row.state == "finished"), key=lambda row: row.score or 0.0)
    lead = PairedTest("", 0.66, 0.70, -0.04, -0.074, -0.006, None, 200)
    replicates = tuple(
        replace(best, number=30 + seed, seed=seed, score=0.64, stage="fresh") for seed in (1, 2)
    )
    names = [name for name, _ in SIX]
    entries = [benchmark_entries(name, 0.66, 0.03, 100) for name in names]
    tested = {name: value for each in entries for name, value in each.items()}
    return StudyData(
        name="mini",
        domain="math",
        label=ScoreLabel.of(SIX),
        rows=rows,
        best=best,
        test_results={"best": tested, "sft": tested},
        config_yaml="name: mini\n" + 60 * "key: value # a line that is not short\n",
        replicates=replicates,
        forks=(replace(best, number=40, stage="fork", parent=best.number, parent_step=40),),
        objectives=("score", "seconds"),
        paired=(*(replace(lead, benchmark=name, p_value=0.04, n=100) for name in names), lead),
        shortfall="search.trials is 40, but the space has only 30 points; each is trained once",
        elsewhere=tuple(replace(row, origin="runs/earlier") for row in rows[:3]),
        curves={
            row.number: [(n / 4, row.score * (0.6 + n / 10)) for n in (1, 2, 3)]
            for row in rows
            if row.score is not None
        },
        importance=(
            ("learning_rate", Interval(0.6, 0.4, 0.8)),
            ("accumulation_interval", Interval(0.3, 0.1, 0.5)),
            ("mask_ratio", Interval(0.1, 0.0, 0.2)),
        ),
    )


def bits_per_byte() -> Page:
    label = ScoreLabel.of([("a_benchmark_with_a_long_name", "bits_per_byte")])
    rows = tuple(
        replace(row, score=None if row.score is None else -3 * row.score, metrics={})
        for row in searched().rows
    )
    best = next(row for row in rows if row.number == 1)
    return search_page.page(
        replace(
            searched(),
            label=label,
            rows=rows,
            best=best,
            objectives=("score",),
            test_results={},
            forks=(),
            elsewhere=(),
            replicates=(),
            curves={},
        )
    )


def sensitivity() -> Page:
    draw, some = (
        random.Random(0),
        sensitivity_report.rows(sensitivity_report.DROP, stages=("tuning", "fresh")),
    )
    items = {
        row.key: {"sums": [[str(i), draw.random(), 1] for i in range(20)]}
        for row in some
        if row.stage == "fresh"
    }
    study = replace(
        sensitivity_report.data(some),
        items=items,
        importance=(
            ("mask_ratio", Interval(0.7, 0.5, 0.9)),
            ("accumulation_interval", Interval(0.3, 0.1, 0.5)),
        ),
    )
    return sensitivity_page.page(study, analyse(study))


def no_verdict() -> Page:
    study = sensitivity_report.data(sensitivity_report.rows(sensitivity_report.FLAT, seeds=1))
    return sensitivity_page.page(study, analyse(study))


def methods() -> Page:
    rows = comparison.methods_rows(0.1)
    tests = {row.key: benchmark_entries("sums", 0.5 + 0.01 * row.seed, 0.1, 50) for row in rows}
    return comparison_page.page(
        comparison.data("methods", rows, tests=tests, margin=0.05, declared="declared before")
    )


def drop() -> Page:
    draw = random.Random(0)
    rows = [comparison.row("sft", 0.0, seed, 0.6 + draw.random() / 50) for seed in range(3)]
    for rule in ("drop_trivial", "drop_random", "drop_salient"):
        rows += [
            comparison.row(rule, rate, seed, 0.5 + draw.random() / 20)
            for rate in RATES
            for seed in range(3)
        ]
    masked = tuple(
        comparison.row("gmt", rate, seed, 0.55 + draw.random() / 20)
        for rate in RATES
        for seed in range(3)
    )
    return comparison_page.page(
        comparison.data("drop", tuple(rows), drop_rates=RATES, sensitivity=masked)
    )


def less_data() -> Page:
    draw = random.Random(0)
    rows = tuple(
        comparison.row(method, ratio, seed, 0.5 + share / 10 + draw.random() / 50, share)
        for method, ratio in comparison.METHODS.items()
        for share in FRACTIONS
        for seed in range(3)
        if not method.startswith("drop")
    )
    return comparison_page.page(comparison.data("data", rows, fractions=FRACTIONS))


def efficiency() -> Page:
    measured, place = comparison.MEASURED, "a CPU with two cores"
    return Page(
        "mini: math, efficiency",
        [(efficiency_page.verdict(measured, place), "")],
        {"": [efficiency_page.efficiency(measured, place)]},
        "name: mini\n",
        appendix=[published_speeds()],
    )


def paper() -> Page:
    label = ScoreLabel("accuracy")
    study = sensitivity_report.data(sensitivity_report.rows(sensitivity_report.DROP))
    found, row = (label, analyse(study)), searched().rows[1]
    parts: tuple[Drawn, ...] = tuple(
        part for page in (methods(), drop()) for part in page.figures[""]
    )
    domains = [
        PaperDomain(
            name,
            f"{name}: {sensitivity().leads[0][0]}",
            "Cost: 120 trials finished, 60.0 trial minutes.",
            parts,
            ("methods: intervals hold for other seeds.",),
            links=((f"{name}, methods", f"../../mini-methods/{name}/report/report.html"),),
            facts=FACTS,
        )
        for name in ("math", "code")
    ]
    shared = [
        best_ratio({"math": (label, row, 12), "code": (label, None, 0)}),
        all_domains(dict.fromkeys(("math", "code", "general"), found)),
    ]
    return paper_page.page("mini", domains, shared, "name: mini\n")


def index() -> Page:
    found = {
        "headline": search_page.page(searched()).leads[0][0],
        "cost": "Cost: 12 trials finished, 60.0 trial minutes.",
        "best": "trial 3 (mask 0.40, N 2, lr 1.3e-3, seed 0), accuracy: 0.66 on validation items",
        "facts": FACTS,
        "links": {"MLflow": "python -m sweeps ui /data/runs/mini"},
    }
    served = {**found, "links": {"compare trials": "http://127.0.0.1:5000/#/compare"}}
    return index_page("mini", {"math": found, "code": served, "general": None}, "name: mini\n")


PAGES: dict[str, Callable[[], Page]] = {
    "search": lambda: search_page.page(searched()),
    "bits_per_byte": bits_per_byte,
    "empty": lambda: search_page.page(search_report.EMPTY),
    "sensitivity": sensitivity,
    "no_verdict": no_verdict,
    "methods": methods,
    "drop": drop,
    "data": less_data,
    "efficiency": efficiency,
    "paper": paper,
    "index": index,
}


def example(name: str) -> str:
    """The page of this name as HTML."""
    page = PAGES[name]()
    return replace(page, facts=page.facts or FACTS, again=AGAIN).html()
