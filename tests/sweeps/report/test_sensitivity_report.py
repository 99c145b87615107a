"""The sensitivity report on studies whose truth is known: verdicts, wording, figures, files."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.report.arms import Interval
from sweeps.report.sensitivity import SensitivityData, analyse, headline, results
from sweeps.report.sensitivity_figures import figures
from sweeps.report.sensitivity_page import page
from sweeps.report.trial_row import ScoreLabel, TrialRow
from sweeps.report.write_report import write_files

RATIOS = (0.0, 0.3, 0.6, 0.9, 0.99)
FLAT = dict.fromkeys(RATIOS, 0.6)
DROP = FLAT | {0.99: 0.3}
EARLY = FLAT | {0.6: 0.4, 0.9: 0.3}


def rows(
    means: dict[float, float], seeds: int = 8, sd: float = 0.01, stages: tuple[str, ...] = ()
) -> tuple[TrialRow, ...]:
    generator = random.Random(0)
    made: list[TrialRow] = []
    for stage in ("replicate", *stages):
        for ratio, mean in means.items():
            for seed in range(seeds):
                made.append(
                    TrialRow(
                        number=len(made),
                        key=f"k{len(made)}",
                        state="finished",
                        mask_ratio=ratio,
                        accumulation_interval=1 + seed % 2 if stage == "tuning" else 1,
                        learning_rate=1e-3,
                        seed=seed,
                        score=generator.gauss(mean, sd),
                        step=10,
                        steps=10,
                        seconds=30.0,
                        metrics={"cost/train_seconds": 20.0 + 10 * ratio},
                        method="gmt" if ratio else "sft",
                        stage=stage,
                    )
                )
    return tuple(made)


def data(some: tuple[TrialRow, ...], margin: float = 0.05) -> SensitivityData:
    return SensitivityData(
        name="mini",
        domain="math",
        label=ScoreLabel("accuracy", unit="of accuracy"),
        ratios=RATIOS,
        method="gmt",
        margin=margin,
        rows=some,
        declared="declared before the first trial",
        config_yaml="a: <b>\n",
    )


def said(some: tuple[TrialRow, ...], margin: float = 0.05) -> str:
    study = data(some, margin)
    return headline(study, analyse(study))


def test_a_flat_curve_is_called_equivalent() -> None:
    assert "up to 0.99, the mask ratio makes no difference beyond ±0.05" in said(rows(FLAT))


def test_a_drop_beyond_the_claim_is_told_beside_it() -> None:
    sentence = said(rows(DROP))
    assert "up to 0.9, the mask ratio makes no difference beyond ±0.05" in sentence
    assert "0.99 is worse" in sentence


def test_no_ratio_is_named_that_was_not_tested() -> None:
    tested = {ratio: DROP[ratio] for ratio in (0.0, 0.6, 0.99)}
    study = replace(data(rows(tested)), ratios=tuple(tested))
    assert "up to 0.6, the mask ratio makes no difference" in headline(study, analyse(study))


def test_an_early_drop_is_told() -> None:
    sentence = said(rows(EARLY))
    assert "already makes a difference up to 0.9" in sentence
    assert "0.6, 0.9" in sentence


def test_too_wide_a_spread_stays_open_and_says_how_many_seeds_are_missing() -> None:
    sentence = said(rows(FLAT, seeds=3, sd=0.05), margin=0.05)
    assert "it is undecided" in sentence
    assert "more per ratio" in sentence


def test_one_seed_says_what_is_missing_instead_of_drawing() -> None:
    study = data(rows(FLAT, seeds=1))
    result = analyse(study)
    assert "requires two" in headline(study, result)
    parts = figures(study, result)
    assert parts[0].figure is None
    assert "requires two" in parts[0].caption
    assert "missing" in page(study, result).html()


def test_an_empty_study_has_a_page() -> None:
    study = data(())
    result = analyse(study)
    assert "no score" in page(study, result).html()


def test_a_ratio_without_scores_is_named() -> None:
    study = data(tuple(r for r in rows(FLAT) if r.mask_ratio != 0.6))
    result = analyse(study)
    assert result.missing == "no score at mask ratio 0.6"
    assert "0.6" in figures(study, result)[0].caption


def test_nothing_is_ever_called_better() -> None:
    for means in (FLAT, DROP, EARLY, FLAT | {0.6: 0.9}):
        study = data(rows(means, stages=("fresh",)))
        result = analyse(study)
        assert "better" not in page(study, result).html()


def test_the_winner_on_fresh_seeds_is_compared_within_its_resolution() -> None:
    close, far = (
        data(rows(FLAT, stages=("fresh",))),
        data(rows(FLAT | {0.6: 0.9}, stages=("fresh",))),
    )
    assert "cannot distinguish the two" in page(close, analyse(close)).html()
    won = analyse(far).rescored
    assert won is not None
    assert won.ratio == 0.6
    assert won.fresh is not None
    assert won.fresh.low > 0.2


def test_questions_are_paired_by_seed() -> None:
    some = rows(FLAT | {0.6: 0.9}, seeds=2, stages=("fresh",))
    fresh = [r for r in some if r.stage == "fresh" and r.mask_ratio in (0.0, 0.6)]
    items = {
        r.key: {"sums": [[str(i), float(r.mask_ratio > 0), 1] for i in range(20)]} for r in fresh
    }
    result = analyse(replace(data(some), items=items))
    assert result.rescored is not None
    (test,) = result.rescored.test
    assert (test.benchmark, test.n) == ("sums", 20)
    assert (test.difference, test.low, test.high) == (1.0, 1.0, 1.0)
    assert "not estimable" in page(replace(data(some), items=items), result).html()


def test_every_figure_has_a_table_or_says_what_is_missing() -> None:
    study = replace(
        data(rows(DROP, stages=("tuning", "fresh"))),
        importance=(
            ("mask_ratio", Interval(0.7, 0.5, 0.9)),
            ("learning_rate", Interval(0.3, 0.1, 0.5)),
        ),
    )
    parts = figures(study, analyse(study))
    assert [part.name for part in parts] == ["curve", "verdicts", "slices", "importance", "front"]
    assert all(part.figure is not None and part.table for part in parts)
    bare = figures(data(rows(DROP)), analyse(data(rows(DROP))))
    missing = [part for part in bare if part.figure is None]
    assert [part.name for part in missing] == ["slices", "importance"]
    assert all(len(part.caption) > 20 for part in missing)


def test_bits_per_byte_are_shown_the_right_way_round() -> None:
    label = ScoreLabel.of([("gsm8k", "bits_per_byte")])
    means = {ratio: -2.0 - (ratio == 0.99) for ratio in RATIOS}
    study = replace(data(rows(means)), label=label)
    parts = figures(study, analyse(study))
    assert "lower is better" in page(study, analyse(study)).html()
    verdicts = parts[1].table
    assert "+1.0" in verdicts  # worse is more bits
    assert "-2." not in parts[0].table


def test_files(tmp_path: Path) -> None:
    study = data(rows(DROP, stages=("fresh",)))
    result = analyse(study)
    paths = write_files(tmp_path, page(study, result), study.rows, results(study, result))
    assert {path.name for path in paths.all()} == {path.name for path in tmp_path.iterdir()}
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["claim"] == "equivalent"
    assert len(written["arms"]) == len(RATIOS)
    html = paths.html.read_text()
    assert "<b>" not in html
    assert html.index("verdict") < html.index("<svg")
    assert "http" not in html.replace("http://www.w3.org", "")


@pytest.mark.parametrize("means", [FLAT, DROP], ids=["flat", "drop"])
def test_the_same_study_gives_the_same_page(means: dict[float, float]) -> None:
    def made() -> str:
        study = data(rows(means, stages=("tuning",)))
        return page(study, analyse(study)).html()

    assert made() == made()
