"""Data files are read one way: with a byte order mark, compressed, as JSON, JSON lines or CSV."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from evaluators.benchmarks import NAMES, build
from evaluators.errors import DataError, NoRowsError
from evaluators.files import BrokenFile, Record, ending, read_text, records
from tests.evaluators.benchmark_rows import ROWS

BOM = b"\xef\xbb\xbf"


def mark(path: Path) -> Path:
    path.write_bytes(BOM + path.read_bytes())
    return path


def pack(path: Path) -> Path:
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return packed


def mark_and_pack(path: Path) -> Path:
    return pack(mark(path))


@pytest.mark.parametrize("change", [mark, pack, mark_and_pack])
@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_reads_them(
    tmp_path: Path, name: str, change: Callable[[Path], Path]
) -> None:
    data = ROWS[name](tmp_path)
    benchmark = build(name, metric="bits_per_byte")
    splits = {split: benchmark.load(data, split) for split in ("validation", "test", "all")}
    changed = {path: change(path) for path in [*tmp_path.rglob("*")] if path.is_file()}
    for split, items in splits.items():
        assert benchmark.load(changed.get(data, data), split) == items


def test_items_are_read_from_parquet(tmp_path: Path) -> None:
    data = ROWS["exact_match"](tmp_path)
    rows = [record.value for record in records(data)]
    parquet.write_table(pyarrow.Table.from_pylist([*rows, {"id": "x"}]), tmp_path / "a.parquet")
    *read, last = [record.value for record in records(tmp_path / "a.parquet")]
    assert (read, last) == (rows, {"id": "x"})  # without the nulls of missing keys
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "b.parquet")
    benchmark = build("exact_match")
    assert benchmark.load(tmp_path / "b.parquet", "all") == benchmark.load(data, "all")
    (tmp_path / "c.parquet").write_text("{}")
    with pytest.raises(DataError, match=r"c\.parquet: expected a Parquet file, found"):
        list(records(tmp_path / "c.parquet"))


def test_a_definition_may_begin_with_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("name: own\nversion: '1'\nform: exact_match\nprompt: '{q}'\nanswer: '{a}'\n")
    (tmp_path / "rows.csv").write_text("q,a\n1+1?,2\n")
    (item,) = build(str(mark(path))).load(mark(tmp_path / "rows.csv"), "test")
    assert (item.prompt, item.answer) == ("1+1?", "2")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jsonl", ".jsonl"),
        ("a.JSON", ".json"),
        ("a.csv.gz", ".csv"),
        ("a.tar.GZ", ".tar"),
        ("a", ""),
        ("jsonl.gz", ""),
    ],
)
def test_the_ending_tells_the_kind(name: str, expected: str) -> None:
    assert ending(Path("some.folder") / name) == expected


ROW = {"a": "1", "b": "x\u2028y\n"}


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a"])
def test_kinds_hold_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.csv":
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([list(ROW), [], list(ROW.values())])
    else:
        line = json.dumps(ROW, ensure_ascii=False)
        path.write_text(f"\n[{line}]" if name == "a.json" else f"\r\n{line}\r\n", "utf-8")
    for each in (path, mark_and_pack(path)):
        if each.exists():
            (record,) = records(each)
            assert (record.value, record.fault) == (ROW, None)


def test_a_record_that_is_none_stops_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{bad\n[2]\n')
    first, second, third = records(path)
    assert first == Record("line", 1, {"a": 1})
    assert second.fault is not None and second.number == 2
    assert second.fault.found == "invalid JSON (Expecting property name enclosed in double " + (
        "quotes) in '{bad'"
    )
    assert third.value == [2]
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n3\n5,6\n")
    assert [record.fault is None for record in records(path)] == [True, False, True]


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("a.jsonl.gz", b"no gzip", DataError, r"a\.jsonl\.gz: expected a gzip file"),
        ("a.jsonl.gz", gzip.compress(b"{}" * 99, mtime=0)[:-9], DataError, "expected a gzip file"),
        ("a.jsonl", b"\xff\xfe{\x00}\x00", DataError, r"a\.jsonl: expected UTF-8 text"),
        ("a.json", b'[{"a": 1},\n{bad]', BrokenFile, "line 2: expected a JSON array, .*invalid"),
        ("a.csv", b"a,a\n1,2\n", BrokenFile, "line 1: expected each column once"),
        ("a.csv", b'a,b\n"1"x,2\n', BrokenFile, "line 2: expected CSV, found invalid csv"),
    ],
)
def test_a_broken_file_is_named(
    tmp_path: Path, name: str, content: bytes, error: type[ValueError], says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=says):
        list(records(tmp_path / name))


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.txt: cannot be read: No such file"):
        read_text(tmp_path / "absent.txt")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", BOM),
        ("a.jsonl", b"\n  \n"),
        ("a.json", b"[]"),
        ("a.json", BOM + b"\n"),
        ("a.json", b'{"examples": []}'),
        ("a.csv", b"id,prompt,reference\n\n"),
        ("a.csv", b""),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
    ],
)
def test_a_file_without_a_row_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(NoRowsError, match=rf"{name}: expected at least one row, .*found none"):
        build("short_answer").load(tmp_path / name, "validation")
    (tmp_path / "x_dev.csv").write_bytes(b"question,a,b,c,d,answer\n")
    with pytest.raises(NoRowsError, match=r"x_dev\.csv: expected at least one row"):
        build("mmlu").load(tmp_path, "validation")


@pytest.mark.parametrize("broken", ['"\\ud800"', "[" * 200_000, "9" * 5000])
def test_json_that_python_cannot_hold_names_its_line(tmp_path: Path, broken: str) -> None:
    """Half of a character, too many brackets, too many digits."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(f'{{"q": "\\u00e9"}}\n{{"q": {broken}}}\n')
    first, second = records(rows)
    assert first.value == {"q": "\u00e9"}
    assert second.fault is not None and "invalid JSON" in second.fault.found
    array = tmp_path / "rows.json"
    array.write_text(f"[{broken}")
    with pytest.raises(BrokenFile, match="invalid JSON"):
        list(records(array))
