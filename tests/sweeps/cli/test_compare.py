"""`compare` on what `eval`, lm-eval and sweeps leave behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evaluators.benchmark import ItemRecord
from evaluators.records import write_records
from sweeps.cli.app import app
from sweeps.execution.test_scoring import TestScores

RECORD = ItemRecord("a", "f00", "4", "4", 0.0, 1.5, 2, 3, False, scores={"maj@2": 1.0})


def compare(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["compare", *map(str, arguments)], env={"COLUMNS": "200"})
    return done.exit_code, done.output


def evaluated(folder: Path, scores: list[float], **kind: object) -> Path:
    folder.mkdir()
    records = [replace(RECORD, id=f"i{n}", score=score) for n, score in enumerate(scores)]
    write_records(records, folder / "sums.jsonl")
    report = {"results": {"my/sums.yaml": {"metric": "accuracy", "aggregation": "items", **kind}}}
    (folder / "scores.json").write_text(json.dumps(report))
    return folder


def test_two_outputs_of_eval(tmp_path: Path) -> None:
    a = evaluated(tmp_path / "a", [1.0] * 9 + [0.0])
    b = evaluated(tmp_path / "b", [0.0] * 9)
    drawn = tmp_path / "d.png"
    code, text = compare(a, b, "--figure", drawn)
    assert code == 0
    assert "my/sums.yaml" in text and "+1.0000" in text and "0.0039" in text
    assert "my/sums.yaml: 1 item left out, only in A: i9" in text
    assert "hold for these two models" in " ".join(text.split())
    (found,) = json.loads(compare(a, b, "--json")[1])["result"]["differences"]
    assert (found["n"], found["only_a"], found["p_value"]) == (9, ["i9"], 2 / 2**9)
    assert drawn.read_bytes().startswith(b"\x89PNG")
    code, text = compare(a / "sums.jsonl", b / "sums.jsonl", "--metric", "maj@2")
    assert code == 0 and "+0.0000" in text


def test_bits_per_byte_are_pooled(tmp_path: Path) -> None:
    a = evaluated(tmp_path / "a", [-1.0, -1.0], metric="bits_per_byte")
    code, text = compare(a, a)
    assert code == 0 and "-1.0820" in text  # 1.5 nats of 2 bytes


def test_scores_of_other_metrics_or_protocols(tmp_path: Path) -> None:
    """The first cannot be compared, unless by a metric of both; the second are named."""
    a = evaluated(tmp_path / "a", [1.0, 0.0], protocol_sha256="f00")
    b = evaluated(tmp_path / "b", [-1.0, -2.0], metric="bits_per_byte")
    code, text = compare(a, b)
    assert code == 2 and "found accuracy in A and bits_per_byte in B" in " ".join(text.split())
    code, text = compare(a, b, "--metric", "bits_per_byte")
    assert code == 0 and "-1.0820" in text and "different protocols" not in text
    c = evaluated(tmp_path / "c", [1.0, 0.0], protocol_sha256="ba7")
    code, text = compare(a, c)
    assert code == 0 and "my/sums.yaml: A and B have different protocols" in text
    assert "different protocols" not in compare(a, a)[1]


def test_a_benchmark_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("x", "y"):
        evaluated(tmp_path / name, [1.0, 0.0])
    code, text = compare(tmp_path, tmp_path)
    assert code == 2 and "my/sums.yaml: expected one file of its items, found" in text


def test_a_single_run_names_its_model(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text('{"kind": "step"}')
    code, text = compare(tmp_path, tmp_path)
    assert code == 2 and f"score its model, eval {tmp_path / 'model'}" in " ".join(text.split())


def harness_file(folder: Path, name: str, scores: list[float]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    rows = [
        {"doc_id": n, "metrics": ["f1", "acc"], "f1": [0, 1], "acc": score, "filter": "none",
         "prompt_hash": f"p{n}"}
        for n, score in enumerate(scores)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_samples_of_lm_eval(tmp_path: Path) -> None:
    a = harness_file(tmp_path / "a", "samples_arc_easy_2026-01-02T03-04-05.678.jsonl", [1, 1, 0])
    harness_file(tmp_path / "b", "samples_arc_easy_2026-02-02T03-04-05.678.jsonl", [1, 0, 0])
    code, text = compare(a, tmp_path / "b")
    assert code == 0 and "arc_easy " in text and "+0.3333" in text
    code, text = compare(a, tmp_path / "b", "--metric", "f1")
    assert code == 2 and "a metric that is a number for each document, acc" in " ".join(
        text.split()
    )


def test_sweeps_domains_and_trials(tmp_path: Path) -> None:
    ours, control = ([[f"i{n}", score, 1, ""] for n in range(8)] for score in (1.0, 0.0))
    scores = TestScores(
        {"best": "003-a", "sft": "001-b"}, {}, {"best": {"sums": ours}, "sft": {"sums": control}}
    )
    (tmp_path / "run/math/trials/001-b").mkdir(parents=True)
    scores.write(tmp_path / "run/math")
    code, text = compare(tmp_path / "run", f"{tmp_path / 'run'}@sft")
    assert code == 0 and "math/sums" in text and "0.0078" in text
    code, text = compare(f"{tmp_path}/run/math@003-a", tmp_path / "run/math/trials/001-b")
    assert code == 0 and "+1.0000" in text
    code, text = compare(tmp_path / "run", f"{tmp_path / 'run'}@007-x")
    assert code == 2 and "no test items of '007-x'; expected one of best, sft" in text


@pytest.mark.parametrize("there", [True, False])
def test_a_place_without_scores_is_a_sentence(tmp_path: Path, there: bool) -> None:
    place = tmp_path if there else tmp_path / "nowhere"
    code, text = compare(place, place)
    assert code == 2 and "no scored items; expected a folder of `eval" in text
