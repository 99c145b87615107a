"""What a tracker is told of each kind of study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeps.config.load import parse_config
from sweeps.execution.report_data import StudyRecord
from sweeps.execution.reporting import study_findings, study_info
from sweeps.execution.test_scoring import TestScores
from sweeps.search.fixed_designs import build_design
from sweeps.search.trial_records import Records
from sweeps.tracking.tracker import DESCRIPTION
from tests.sweeps.played import FINISHED, STOPPED, play

NUISANCE = {"accumulation_interval": 1, "learning_rate": 1e-3}


@pytest.mark.parametrize(
    ("kind", "trials", "note"),
    [
        ("search", "3", "Search over mask_ratio, accumulation_interval, learning_rate: 3"),
        ("drop", "fixed design", "Fixed design 'drop': 5 seeds"),
        ("efficiency", "0", "Training speed of each method"),
    ],
)
def test_the_note_says_what_kind_of_study_it_is(
    tree: dict[str, Any], kind: str, trials: str, note: str
) -> None:
    study = {"kind": kind, "nuisance": NUISANCE, "mask_ratio": 0.5, "seeds": 5}
    config = parse_config(tree | {"study": study})
    told = study_info(config, "sums", build_design(config, "sums"))
    assert told.note.startswith(note)
    assert (told.parameters["kind"], told.parameters["trials"]) == (kind, trials)


def test_a_study_states_its_best_trial_and_the_verdict(sweep_files: Path) -> None:
    config = play(STOPPED, FINISHED)
    records = Records(config)
    study, rows = records.study("sums"), records.rows("sums")
    assert study is not None
    entries = {"best": {"exact_match/score": 0.25}}
    scores = TestScores({"best": rows[1].key, "sft": rows[1].key}, entries)
    finals, facts = study_findings(StudyRecord(config, "sums", study, rows, scores))
    assert finals == {"final/score": 0.5, "test/best/exact_match/score": 0.25}
    assert facts["best"].startswith("trial 1 (mask 0.")
    assert facts["best"].endswith(", seed 0), exact_match score: 0.500 on validation items")
    why = "the best trial is itself plain SFT"
    assert facts["verdict"] == f"not compared with SFT on test items: {why}"
    assert facts[DESCRIPTION].split("\n\n") == [
        "Search over mask_ratio, accumulation_interval, learning_rate: 3 trials, sampler tpe.",
        f"**Best**: {facts['best']}",
        f"**Verdict**: {facts['verdict']}",
    ]


def test_a_study_without_a_finished_trial_states_only_what_it_is(sweep_files: Path) -> None:
    config = play(STOPPED)
    record = StudyRecord.of(Records(config), "sums")
    assert record is not None
    found = study_findings(record)
    assert found == ({}, {DESCRIPTION: study_info(config, "sums", None).note})
