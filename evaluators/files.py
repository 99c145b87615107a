"""Data files of every kind, read one way: UTF-8, with or without a byte order mark, or .gz."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TextIO, final

from evaluators.errors import DataError

ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
"""Of the files that `records` reads; all but Parquet files may end in .gz, too."""


@final
@dataclass(frozen=True)
class Fault:
    """What was expected of a record, and what was found."""

    expected: str
    found: str


@final
@dataclass(frozen=True)
class Record:
    """The `value` at line or row `number` (from 1) of a file, or the `fault` of that record."""

    unit: Literal["line", "row"]
    number: int
    value: Any = None
    fault: Fault | None = None


@final
class BrokenFile(ValueError):
    """A file that cannot be read any further than `line` (from 1)."""

    def __init__(self, line: int, expected: str, found: str) -> None:
        """Say where, what was expected, and what was found."""
        super().__init__(f"line {line}: expected {expected}, found {found}")
        self.line, self.expected, self.found = line, expected, found


def ending(path: Path | str) -> str:
    """The ending that tells the kind of a file, in lower case, without a .gz behind it."""
    return Path(Path(path).name.lower().removesuffix(".gz")).suffix


def files_named(folder: Path, pattern: str) -> list[Path]:
    """The files of `folder` whose names fit `pattern`, plain or .gz, sorted by name."""
    found = chain(folder.glob(pattern), folder.glob(f"{pattern}.gz"))
    return sorted(found, key=lambda path: path.name)


@contextmanager
def open_text(path: Path, newline: str = "") -> Iterator[TextIO]:
    """The text of `path` as a stream; raises DataError where it has none. `newline` as in open."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline=newline) as stream:
            yield stream
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected a gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text, found {error.reason}") from error


def read_text(path: Path) -> str:
    """The whole text of `path`, line ends as they are; DataError where it has none."""
    with open_text(path) as stream:
        return stream.read()


def records(path: Path, *, field: str | None = None) -> Iterator[Record]:
    """Every record of a CSV, Parquet or JSON file (any other ending), blank lines left out.

    JSON is an object on each line, or one array. With `field`, a .json file is always read as
    one value: an array, or an object with the array as its `field`.

    Raises:
        DataError: the file has no text, or is no Parquet file.
        BrokenFile: it stops being CSV or JSON.
    """
    if ending(path) == ".parquet":
        return _parquet(path)
    if ending(path) == ".csv":
        return _csv(path)
    if field is not None:
        return _whole(path, field) if ending(path) == ".json" else _lines(path)
    return _whole(path, None) if _begins_an_array(path) else _lines(path)


def csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of its last line, from 1; its fields) of each CSV record, blank lines left out.

    Raises:
        DataError: the file has no text.
        BrokenFile: it is no CSV.
    """
    with open_text(path) as stream:
        reader = csv.reader(stream, strict=True)
        try:
            for values in reader:
                if values:
                    yield reader.line_num, values
        except csv.Error as error:
            raise BrokenFile(reader.line_num, "CSV", f"invalid csv ({error})") from error


def _csv(path: Path) -> Iterator[Record]:
    lines = csv_lines(path)
    number, names = next(lines, (1, []))
    if len(set(names)) != len(names):
        raise BrokenFile(number, "each column once", str(names))
    for number, values in lines:
        if len(values) != len(names):
            fault = Fault(f"{len(names)} fields", str(len(values)))
            yield Record("line", number, fault=fault)
        else:
            yield Record("line", number, dict(zip(names, values, strict=True)))


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            for value in batch.to_pylist():
                number += 1
                yield Record("row", number, without_nulls(value))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: expected a Parquet file, found: {error}") from error


def without_nulls(value: Any) -> Any:
    """A nested value without the nulls that Arrow adds for keys missing in a row."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


def _begins_an_array(path: Path) -> bool:
    with open_text(path) as stream:
        first = stream.read(1)
        while first.isspace():
            first = stream.read(1)
        return first == "["


def _lines(path: Path) -> Iterator[Record]:
    # Lines end at \n only: U+2028 and the like may stand inside strings.
    with open_text(path, newline="\n") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield _line(number, line)


def _line(number: int, line: str) -> Record:
    try:
        return Record("line", number, _parsed(line))
    except (ValueError, RecursionError) as error:
        shown = line.rstrip("\n")
        found = f"invalid JSON ({getattr(error, 'msg', error)}) in {shown!r:.60}"
        return Record("line", number, fault=Fault("one JSON object", found))


def _parsed(text: str) -> Any:
    """The JSON value; ValueError also where a text holds half of a character."""
    value = json.loads(text)
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _whole(path: Path, field: str | None) -> Iterator[Record]:
    expected = "a JSON array" + (f", or an object with {field!r}" if field else "")
    text = read_text(path)
    if not text.strip():
        return iter(())
    try:
        content = _parsed(text)
    except (ValueError, RecursionError) as error:
        found = f"invalid JSON ({getattr(error, 'msg', error)})"
        raise BrokenFile(getattr(error, "lineno", 1), expected, found) from error
    rows = content.get(field) if isinstance(content, dict) else content
    if not isinstance(rows, list):
        keys = ", ".join(map(repr, content)) if isinstance(content, dict) else ""
        raise BrokenFile(1, expected, keys or type(rows).__name__)
    return (Record("row", number, value) for number, value in enumerate(rows, start=1))
