"""Per-item records as JSONL, and the paired comparison of two results on the same items."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluators.benchmark import BenchmarkResult, ItemRecord, Sample
from evaluators.errors import DataError
from evaluators.paired_comparison import Difference, differences, scored_items
from evaluators.rows import Fields, read_jsonl

_FIELDS: Fields = {
    "id": str,
    "prompt_sha256": str,
    "output": str,
    "score": (int, float),
    "reference_nats": (int, float),
    "reference_bytes": int,
    "tokens": int,
}


def write_records(records: Sequence[ItemRecord], path: Path) -> None:
    """Write records as JSONL: each record's fields and `correct`, null for a partial score."""
    lines = []
    for record in records:
        correct = record.score == 1.0 if record.score in (0.0, 1.0) else None
        lines.append(json.dumps({**asdict(record), "correct": correct}, ensure_ascii=False))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_records(path: Path) -> list[ItemRecord]:
    """The records of a file that `write_records` wrote.

    Raises:
        DataError: a row is none; names file and line.
    """
    records = []
    for line, row in read_jsonl(path, _FIELDS):
        row.pop("correct", None)  # follows from the score
        try:
            records.append(as_record(row))
        except TypeError as error:
            raise DataError.at(path, line, "the fields of a record", str(error)) from error
    return records


def as_record(row: Mapping[str, Any]) -> ItemRecord:
    """The record whose `asdict` is `row`; TypeError where it is none's."""
    samples = tuple(Sample(**sample) for sample in row.get("samples", ()))
    return ItemRecord(**{**row, "samples": samples})


def compare(a: BenchmarkResult, b: BenchmarkResult) -> Difference:
    """`a` - `b`, paired item by item, so that the items' difficulty cancels.

    Raises:
        ValueError: protocol, items or prompts differ; `paired_comparison.differences` compares the
            common items instead.
    """
    if a.protocol_sha256 != b.protocol_sha256:
        raise ValueError(f"{a.name}, {b.name}: expected two results of the same protocol")
    left = {record.id: record for record in a.records}
    right = {record.id: record for record in b.records}
    if left.keys() != right.keys():
        lonely = sorted(left.keys() ^ right.keys())
        raise ValueError(
            f"{a.name}: expected the same items twice, found {len(lonely)} on one side only, "
            f"such as {lonely[0]!r}"
        )
    for name, record in left.items():
        if record.prompt_sha256 != right[name].prompt_sha256:
            raise ValueError(f"{a.name}: the prompts of item {name!r} differ")
    sides = ({a.name: scored_items(each.records, a.metric, a.aggregation)} for each in (a, b))
    return differences(*sides)[0]
