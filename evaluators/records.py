"""Per-item records as JSONL, and the paired comparison of two results on the same items."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluators.benchmark import BenchmarkResult, ItemRecord, Sample
from evaluators.errors import DataError
from evaluators.rows import Fields, read_jsonl
from evaluators.statistics import mcnemar, paired_bootstrap

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
    """One JSON object per item: the record's fields and `correct`, null for a partial score."""
    lines = []
    for record in records:
        correct = record.score == 1.0 if record.score in (0.0, 1.0) else None
        lines.append(json.dumps({**asdict(record), "correct": correct}, ensure_ascii=False))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_records(path: Path) -> list[ItemRecord]:
    """The records that `write_records` wrote; DataError names file and line."""
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


@dataclass(frozen=True)
class Comparison:
    """How much better `a` is than `b` on the same `n` items.

    `difference` is the mean of a - b with the 95 % interval [`low`, `high`] of the paired
    bootstrap. `p_value` is McNemar's, None where scores are not right or wrong.
    """

    difference: float
    low: float
    high: float
    p_value: float | None
    n: int


def compare(a: BenchmarkResult, b: BenchmarkResult) -> Comparison:
    """The paired comparison of two results of one protocol on the same items and prompts.

    Paired by item, so that the items' difficulty cancels. Raises ValueError for results that
    cannot be compared. Correct several comparisons with `statistics.holm`.
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
    first = [record.score for record in left.values()]
    second = [right[name].score for name in left]
    found = paired_bootstrap(first, second)
    binary = all(score in (0.0, 1.0) for score in (*first, *second))
    p_value = mcnemar([s == 1 for s in first], [s == 1 for s in second]) if binary else None
    return Comparison(found.mean, found.low, found.high, p_value, len(first))
