"""The report on synthetic studies: self-contained, complete, honest, and never in the way."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sweeps.report import search_page
from sweeps.report.drawing import png
from sweeps.report.page import index_page
from sweeps.report.search_figures import (
    best_score_so_far,
    learning_curves,
    score_against_mask_ratio,
    slices,
)
from sweeps.report.search_verdict import verdict
from sweeps.report.sensitivity_page import cost
from sweeps.report.trial_row import (
    NO_VALUE,
    PairedTest,
    ScoreLabel,
    StudyData,
    TrialRow,
    benchmark_entries,
    best_by_mask_ratio,
    best_so_far,
    scored,
)
from sweeps.report.write_report import ReportPaths, trials_csv, write_files


def row(number: int, mask_ratio: float, score: float | None, state: str = "finished") -> TrialRow:
    return TrialRow(
        number=number,
        key=f"k{number}",
        state=state,
        mask_ratio=mask_ratio,
        accumulation_interval=2 ** (number % 3),
        learning_rate=10 ** (-2 - number / 4),
        seed=0,
        score=score,
        step=100,
        steps=100,
        seconds=6.0,
        metrics={"eval/math/bits_per_byte": 1.5},
    )


ROWS = (
    row(0, 0.0, 0.61),
    row(1, 0.5, 0.74321),
    row(2, 0.0, 0.68765),
    row(3, 0.9, None, "failed"),
    row(4, 0.5, 0.99, "stopped_early"),
    row(5, 0.2, 0.7),
)
DATA = StudyData(
    name="mini",
    domain="math",
    label=ScoreLabel("accuracy"),
    rows=ROWS,
    best=ROWS[1],
    test_results={
        "best": benchmark_entries("math", 0.72, 0.03, 200),
        "sft": benchmark_entries("math", 0.66, 0.04, 200),
    },
    config_yaml="note: <script>alert(1)</script>\n",
    paired=(PairedTest("math", 0.72, 0.66, 0.06, 0.021, 0.099, 0.0042, 200),),
)
EMPTY = replace(DATA, rows=(), best=None, test_results={}, paired=())


class Page(HTMLParser):
    """Collects what a browser would load, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def page(data: StudyData) -> Page:
    return Page(render_page(data))


def write_report(data: StudyData, folder: Path) -> ReportPaths:
    return write_files(folder, search_page.page(data), data.rows)


def test_only_trials_that_ran_to_the_end_are_compared() -> None:
    assert [r.number for r in scored(ROWS)] == [0, 1, 2, 5]
    best = {ratio: r.number for ratio, r in best_by_mask_ratio(ROWS).items()}
    assert best == {0.0: 2, 0.2: 5, 0.5: 1}
    assert list(best) == sorted(best)


def test_best_so_far_never_falls() -> None:
    best = 0.74321
    assert best_so_far(ROWS) == [(0, 0.61), *((number, best) for number in range(1, 6))]
    assert best_so_far(tuple(reversed(ROWS))) == best_so_far(ROWS)
    assert best_so_far(()) == []


def test_best_so_far_goes_on_to_the_last_trial_that_ended() -> None:
    """Else a search whose last trials were unpromising would look as if it still improved."""
    late = (row(6, 0.4, 0.99, "stopped_early"), row(7, 0.4, None, "running"))
    assert best_so_far((*ROWS, *late))[-1] == (6, 0.74321)
    assert best_so_far((row(0, 0.0, 0.9, "stopped_early"), row(1, 0.0, 0.61))) == [(1, 0.61)]


def test_negative_scores_are_compared_too() -> None:
    rows = (row(0, 0.0, -2.0), row(1, 0.0, -1.5), row(2, 0.0, -3.0))
    assert best_so_far(rows) == [(0, -2.0), (1, -1.5), (2, -1.5)]
    assert best_by_mask_ratio(rows)[0.0].number == 1


def test_files_are_written_and_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "study" / "report"
    write_report(EMPTY, folder)
    paths = write_report(DATA, folder)
    assert "0.743" in paths.html.read_text(encoding="utf-8")
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    names = {"report.html", "report.png", "curve.png", "slices.png", "trials.csv"}
    assert names == {path.name for path in paths.all()} == {path.name for path in folder.iterdir()}


def test_the_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    html = write_report(DATA, tmp_path).html.read_text(encoding="utf-8")
    parsed = Page(html)
    assert parsed.tags.count("svg") == 3
    # Within the drawings alone: markers that are used again by their name.
    assert all(value.startswith("#") for value in parsed.loaded)
    assert not {"link", "iframe", "base"} & set(parsed.tags)
    assert parsed.tags.count("script") == 1  # its own, which sorts the tables
    assert "@import" not in html
    assert "url(" not in html.replace("url(#", "")


def test_best_trial_and_sft_control_are_shown() -> None:
    text = page(DATA).text
    assert "0.743" in text
    assert "trial 1, seed 0" in text
    assert "Best SFT (mask ratio 0) 0.688 trial 2, seed 0" in text
    assert "1 failed, 4 finished, 1 stopped early" in text
    assert "0.990" not in text  # a stopped trial's score is of an earlier step


def test_test_items_come_with_errors_and_their_paired_difference() -> None:
    text = page(DATA).text
    assert "0.720 ± 0.030" in text
    assert "0.660 ± 0.040" in text
    assert "+0.060 +0.021 to +0.099 0.004 200" in text
    assert "± 0.050" not in text  # as if the two had answered different items
    assert "holds for these two models, with one seed each" in text


def test_several_benchmarks_have_a_mean_of_all() -> None:
    both = PairedTest("", 0.7, 0.68, 0.02, -0.01, 0.05, None, 300)
    text = page(replace(DATA, paired=(*DATA.paired, both))).text
    assert f"mean of all 0.700 0.680 +0.020 -0.010 to +0.050 {NO_VALUE} 300" in text
    assert "mean of all" not in page(DATA).text


def test_where_the_best_trial_is_the_control_nothing_is_compared() -> None:
    control = DATA.test_results["sft"]
    text = page(replace(DATA, best=ROWS[2], test_results={"best": control, "sft": control})).text
    assert "0.660 ± 0.040" in text
    assert "+0.0" not in text
    assert "The best trial is the best SFT trial" in text


def test_a_missing_sft_result_leaves_a_gap_not_a_claim() -> None:
    text = page(replace(DATA, test_results={"best": DATA.test_results["best"]}, paired=())).text
    assert "0.720 ± 0.030" in text
    assert "+0.0" not in text
    assert "the trials have no scores on the same items" in text


def test_unread_test_items_and_a_missing_control_are_said() -> None:
    text = page(replace(DATA, rows=ROWS[1:2], test_results={})).text
    assert "Not read." in text
    assert "No SFT trial (mask ratio 0) has finished" in text


def test_the_caveat_is_there() -> None:
    text = page(DATA).text
    assert "not a sensitivity study" in text
    assert "samples are biased" in text
    assert "highest of 4" in text


def test_text_from_the_study_is_escaped() -> None:
    parsed = page(replace(DATA, name="<b>x</b>"))
    assert parsed.tags.count("script") == page(EMPTY).tags.count("script") == 1
    assert "b" not in parsed.tags
    assert "<script>alert(1)</script>" in parsed.text


def test_an_empty_study_has_a_report(tmp_path: Path) -> None:
    text = Page(write_report(EMPTY, tmp_path).html.read_text(encoding="utf-8")).text
    assert "none started" in text
    assert "No trial has finished with a score yet." in text


@pytest.mark.parametrize(
    "rows",
    [ROWS, ROWS[:1], ROWS[3:5], (), tuple(row(i, i / 100, math.sin(i)) for i in range(100))],
    ids=["mixed", "one", "none finished", "empty", "hundred"],
)
def test_figures_draw_and_are_reproducible(rows: tuple[TrialRow, ...]) -> None:
    data = replace(DATA, rows=rows)
    for draw in (score_against_mask_ratio, best_score_so_far):
        assert png(draw(data)) == png(draw(data))


def test_the_figure_has_the_sft_line_at_its_score() -> None:
    [axes, _] = score_against_mask_ratio(DATA).axes
    heights = [line.get_ydata() for line in axes.get_lines()]
    assert any(list(height) == [0.68765, 0.68765] for height in heights)


def test_bits_per_byte_are_shown_without_the_minus_and_called_so() -> None:
    label = ScoreLabel.of([("gsm8k", "bits_per_byte")])
    rows = (row(0, 0.0, -2.25), row(1, 0.5, -1.75))
    tests = {"best": benchmark_entries("g", -1.5, 0.1, 9), "sft": benchmark_entries("g", -2, 0, 9)}
    paired = (PairedTest("g", -1.5, -2.0, 0.5, 0.3, 0.7, None, 9),)
    data = replace(DATA, label=label, rows=rows, best=rows[1], test_results=tests, paired=paired)
    text = page(data).text
    assert "Best validation bits per byte (lower is better) 1.7500" in text
    assert f"-0.5000 -0.7000 to -0.3000 {NO_VALUE} 9" in text
    assert "-1.75" not in text
    [axes, _] = score_against_mask_ratio(data).axes
    assert axes.get_ylabel() == "validation bits per byte (lower is better)"
    heights = [offset[1] for marks in axes.collections for offset in marks.get_offsets()]
    assert sorted(heights) == [1.75, 2.25]


@pytest.mark.parametrize(
    ("benchmarks", "text", "sign"),
    [
        ([("mmlu", None), ("bbh", "accuracy")], "mean of 2 benchmarks", 1.0),
        ([("mmlu", "bits_per_byte"), ("bbh", "bits_per_byte")], "bits per byte", -1.0),
        ([("mmlu", "bits_per_byte"), ("bbh", None)], "bits per byte count negatively", 1.0),
        ([("mmlu", None)], "mmlu score", 1.0),
    ],
)
def test_the_label_fits_the_benchmarks(
    benchmarks: list[tuple[str, str | None]], text: str, sign: float
) -> None:
    label = ScoreLabel.of(benchmarks)
    assert text in label.text
    assert label.sign == sign


def test_csv_has_every_trial_and_metric() -> None:
    lines = list(csv.DictReader(trials_csv(DATA.rows).splitlines()))
    assert [line["number"] for line in lines] == ["0", "1", "2", "3", "4", "5"]
    assert float(lines[1]["score"]) == 0.74321
    assert lines[3]["score"] == ""
    assert lines[3]["state"] == "failed"
    assert lines[0]["eval/math/bits_per_byte"] == "1.5"


def test_forks_are_listed_beside_their_parents_and_are_in_no_figure() -> None:
    forked = row(6, 0.5, 0.9)
    changes = {"stage": "fork", "parent": 1, "parent_step": 40, "others": {"weight_decay": 0.1}}
    forks = (replace(forked, **changes), replace(row(7, 0.5, None, "failed"), **changes))
    data = replace(DATA, forks=forks)
    words = " ".join(page(data).words)
    assert "trial 1 from update 40" in words
    assert "weight_decay 0.1" in words and "mask_ratio 0.5" not in words
    assert words.index("0.900") < words.index("failed", words.index("Forks"))
    assert len(page(data).loaded) == len(page(DATA).loaded)
    assert "Forks" not in page(DATA).text
    header, *lines = csv.reader(trials_csv((*ROWS, *forks)).splitlines())
    assert [line[header.index("parent")] for line in lines] == [*[""] * 6, "1", "1"]
    assert "queued" not in header
    assert "parent" not in trials_csv(ROWS).splitlines()[0]


@pytest.mark.parametrize("state", ["stopped_early", "stopped_by_user", "interrupted"])
def test_a_control_that_was_stopped_is_told_first(state: str) -> None:
    control = replace(row(7, 0.0, 0.4, state), step=50)
    html = render_page(replace(DATA, rows=(*ROWS, control)))
    told = "was stopped early (trial 7 at update 50 of 100); 2 finished."
    assert f'<p class="lead">The control (SFT, mask ratio 0) {told} 7 trials' in html
    assert "was stopped early" not in render_page(DATA)  # trial 4, which was, has a mask


def test_a_control_that_was_stopped_before_all_is_the_only_one() -> None:
    control = replace(row(0, 0.0, None, "interrupted"), step=0, steps=0)
    html = render_page(replace(DATA, rows=(control, *ROWS[3:])))
    assert "(trial 0 before its first check); no control has finished." in html


def test_half_fine_tuning_that_was_stopped_is_no_control() -> None:
    half = replace(row(7, 0.0, 0.4, "stopped_early"), method="hft")
    assert "The control" not in render_page(replace(DATA, rows=(*ROWS, half)))


def test_a_fixed_design_tells_it_too() -> None:
    control = replace(row(7, 0.0, 0.4, "interrupted"), method="sft", step=50)
    assert cost((*ROWS, control)).startswith("The control (SFT, mask ratio 0) was stopped")
    assert cost(ROWS).startswith("Cost: ")


def test_a_space_with_too_few_points_is_told() -> None:
    short = "search.trials is 16, but the space has only 6 points; each is trained once"
    assert f"trial minutes. Small space: {short}.</p>" in render_page(
        replace(DATA, shortfall=short)
    )


def render_page(data: StudyData) -> str:
    return search_page.page(data).html()


def searched(number: int, mask_ratio: float, score: float, **others: float | str) -> TrialRow:
    return replace(row(number, mask_ratio, score), others=others)


OTHERS = (
    searched(0, 0.0, 0.6, weight_decay=0.1, optimizer="adamw"),
    searched(1, 0.2, 0.7, weight_decay=0.0, optimizer="adafactor", scope="global"),
    replace(searched(2, 0.4, 0.9, weight_decay=0.1), violated=("seconds <= 1",)),
)


def test_other_parameters_have_a_figure_columns_and_cards() -> None:
    figure = slices(replace(DATA, rows=OTHERS))
    assert figure is not None  # scope has one value only
    names = ["accumulation_interval", "learning_rate", "weight_decay", "optimizer"]
    assert [axes.get_xlabel() for axes in figure.axes] == names
    labels = [[label.get_text() for label in axes.get_xticklabels()] for axes in figure.axes]
    assert labels[0] == ["1", "2", "4"]
    assert labels[2:] == [["0", "0.1"], ["adafactor", "adamw"]]
    assert [len(axes.collections[0].get_offsets()) for axes in figure.axes] == [3, 3, 3, 2]
    assert slices(replace(DATA, rows=ROWS[:1])) is None
    drawn = slices(replace(DATA, rows=(ROWS[0], ROWS[1])))
    assert drawn is not None  # two learning rates from a range: where they are
    places = [float(x) for x, _ in drawn.axes[1].collections[0].get_offsets()]
    assert places == [ROWS[0].learning_rate, ROWS[1].learning_rate]
    html = search_page.page(replace(DATA, rows=OTHERS, best=OTHERS[1])).html()
    words = " ".join(Page(html).words)
    assert "weight_decay" in words and "adafactor" in words
    header, *lines = csv.reader(trials_csv(OTHERS).splitlines())
    assert [line[header.index("optimizer")] for line in lines] == ["adamw", "adafactor", ""]
    assert [line[header.index("violated")] for line in lines] == ["", "", "seconds <= 1"]


def test_a_trial_that_violates_a_constraint_is_not_among_the_best() -> None:
    page = search_page.page(replace(DATA, rows=OTHERS, best=OTHERS[1]))
    words = " ".join(Page(page.html()).words)
    assert "1 of 3 finished trials violate seconds <= 1; these are not selected." in words
    assert best_so_far(OTHERS)[-1] == (2, 0.7)


def test_the_verdict_comes_first_with_its_scope() -> None:
    assert search_page.page(DATA).leads[0][0] == (
        "On 200 test items, GMT leads SFT by 0.060 (95 % interval 0.021 to 0.099): these two "
        "models, one seed each."
    )
    behind = PairedTest("", 0.66, 0.70, -0.04, -0.074, -0.006, None, 300)
    text = verdict(replace(DATA, paired=(*DATA.paired, behind)))
    assert "On 300 test items, SFT leads GMT by 0.040 (95 % interval 0.006 to 0.074)" in text
    close = replace(DATA, paired=(replace(behind, high=0.01),))
    assert "cannot be distinguished: GMT minus SFT is -0.040" in verdict(close)
    label = ScoreLabel.of([("gsm8k", "bits_per_byte")])
    text = verdict(replace(DATA, label=label))
    assert "GMT leads SFT by 0.0600 bits per byte (95 % interval 0.0210 to 0.0990)" in text


SAME = tuple(replace(row, score=0.0, scores=()) for row in ROWS[:2])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rows": (), "best": None}, "no trial has finished"),
        ({"best": ROWS[2]}, "The best of 4 trials on validation items is SFT itself"),
        ({"rows": SAME}, "all 2 finished trials have the same score; a finer metric"),
        ({"rows": ROWS[1:2]}, "no SFT trial"),
        ({"test_results": {}, "paired": ()}, "have not been read"),
        ({"paired": ()}, "no scores on the same test items"),
    ],
)
def test_where_there_is_no_verdict_the_page_says_why(changes: dict[str, Any], text: str) -> None:
    assert text in verdict(replace(DATA, **changes))


def test_intervals_of_validation_scores_are_shown_and_drawn() -> None:
    spans = {"validation/low": 0.68, "validation/high": 0.80}
    best = replace(ROWS[1], metrics=spans)
    data = replace(DATA, rows=(ROWS[0], best, *ROWS[2:]), best=best)
    assert "trial 1, seed 0; 95 % 0.680 to 0.800" in page(data).text
    assert "0.743 0.680 to 0.800" in page(data).text
    [axes, _] = score_against_mask_ratio(data).axes
    assert "best trial, 95 %" in axes.get_legend_handles_labels()[1]
    assert "95 %" not in _table(page(DATA).text)


def _table(text: str) -> str:
    return text[text.index("Trials on the validation items") : text.index("What this report")]


def test_stopped_trials_are_in_the_table_without_a_score_to_compare() -> None:
    words = _table(page(DATA).text)
    assert "stopped early" in words and "failed" in words
    assert words.index("0.610") < words.index("stopped early")


def test_hollow_marks_are_explained_where_there_are_any() -> None:
    assert "Hollow marks" in page(DATA).text
    assert "Hollow marks" not in page(replace(DATA, rows=ROWS[:3])).text


def test_a_learning_curve_for_every_trial_with_checks() -> None:
    assert learning_curves(DATA) is None
    curves = {0: [(0.5, 0.4)], 1: [(0.5, 0.6)], 3: [(0.5, 0.1)], 4: [(0.25, 0.9), (0.5, 0.99)]}
    figure = learning_curves(replace(DATA, curves=curves))
    assert figure is not None
    drawn = [line.get_xydata().tolist() for line in figure.axes[0].lines]
    assert [[0.5, 0.6], [1.0, 0.74321]] in drawn  # the last check is the score
    assert [[0.25, 0.9], [0.5, 0.99]] in drawn  # it was stopped
    assert len(drawn) == 3


def test_figures_say_what_they_show_and_the_page_how_to_repeat_it() -> None:
    whole = replace(search_page.page(DATA), facts=[("model", "m")], again=[("Again", "run x")])
    html = whole.html()
    shown = "Score against mask ratio: validation accuracy against mask ratio"
    assert f'role="img" aria-label="{shown}"' in html
    assert "<dt>model</dt><dd>m</dd>" in html
    assert '<p>Again:</p>\n<pre tabindex="0">run x</pre>' in html


def test_the_index_has_every_domain_and_its_places() -> None:
    found = {
        "headline": "On 9 test items, GMT leads.",
        "cost": "Cost: 3.",
        "best": "trial 3",
        "facts": [["model", "m"]],
        "links": {"compare": "http://server/x", "MLflow": "serve it"},
    }
    html = index_page("mini", {"math": found, "code": None}, "").html()
    text = Page(html).text
    assert "math: On 9 test items, GMT leads. " in text and "Best: trial 3. Cost: 3." in text
    assert "code: no report yet." in text and "MLflow: serve it" in text
    for address in ("math/report/report.html", "math/report/trials.csv", "math/trials/"):
        assert f'href="{address}"' in html
    assert 'href="http://server/x">MLflow: compare</a>' in html
