"""Per-item records on disk, and two results compared item by item."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from evaluators.benchmark import BenchmarkResult, Item, ItemRecord, Sample, items_sha256, summarise
from evaluators.benchmarks import build
from evaluators.errors import DataError
from evaluators.records import compare, read_records, write_records

RECORD = ItemRecord(
    "a", "f00", "4\u2028", None, 0.0, 1.5, 2, 3, True, "g", "c", {"mc1": 1.0},
    (Sample("4", "4", 1.0, 1, False), Sample("5", None, 0.0, 1, True)),
)  # fmt: skip


def result(scores: list[float], **changes) -> BenchmarkResult:
    records = [
        replace(RECORD, id=str(n), score=score, group="", cluster="")
        for n, score in enumerate(scores)
    ]
    return replace(summarise(build("exact_match"), records), **changes)


def test_records_come_back_as_they_were(tmp_path):
    path = tmp_path / "records.jsonl"
    records = [RECORD, replace(RECORD, id="b", score=0.5, samples=())]
    write_records(records, path)
    assert read_records(path) == records
    rows = [json.loads(line) for line in path.read_text().split("\n") if line]
    assert [row["correct"] for row in rows] == [False, None]
    for name in ("id", "prompt_sha256", "output", "extracted", "tokens", "truncated"):
        assert name in rows[0]


def test_broken_records_are_named(tmp_path):
    path = tmp_path / "records.jsonl"
    write_records([RECORD], path)
    path.write_text(path.read_text().replace('"truncated": true, "group"', '"group"', 1))
    with pytest.raises(DataError, match=r"records\.jsonl:1: expected the fields of a record"):
        read_records(path)


def test_two_results_are_compared_item_by_item():
    better = [1.0] * 70 + [0.0] * 30
    worse = [1.0] * 55 + [0.0] * 45
    found = compare(result(better), result(worse))
    assert found.difference == pytest.approx(0.15)
    assert 0 < found.low < 0.15 < found.high
    assert found.p_value == pytest.approx(2 / 2**15)
    assert found.n == 100
    assert compare(result([0.5, 1.0]), result([0.25, 1.0])).p_value is None


def test_what_cannot_be_compared_is_refused():
    one = result([1.0, 0.0])
    with pytest.raises(ValueError, match="same protocol"):
        compare(one, result([1.0, 0.0], protocol_sha256="other"))
    with pytest.raises(
        ValueError, match="same items twice, found 1 on one side only, such as '2'"
    ):
        compare(one, result([1.0, 0.0, 1.0]))
    changed = tuple(replace(record, prompt_sha256="other") for record in one.records)
    with pytest.raises(ValueError, match="prompts of item '0' differ"):
        compare(one, result([1.0, 0.0], records=changed))


def test_the_fingerprint_of_the_items_covers_their_answers():
    items = [Item("a", "p", "r", answer="1"), Item("b", "p", "r")]
    assert items_sha256(items) == items_sha256(list(items))
    assert items_sha256(items) != items_sha256([replace(items[0], answer="2"), items[1]])
    assert items_sha256(items) != items_sha256(items[::-1])
