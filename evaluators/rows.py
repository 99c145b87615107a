"""Reading data row by row from a file or from the hub, with errors that name the place.

A source is a path, or "hub:owner/name@revision" for a data set of the Hugging Face hub. The
revision is required: data that change under a score make it no score.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.errors import DataError, describe_fields, missing_fields

Fields = Mapping[str, type | tuple[type, ...]]
_HUB = re.compile(r"hub:(?P<name>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")


@dataclass(frozen=True)
class HubSplit:
    """Where a benchmark's rows are in its hub data set: one or more configurations, a split."""

    split: str
    configurations: tuple[str | None, ...] = (None,)


def is_hub(source: Path | str) -> bool:
    """Whether `source` names a data set of the hub."""
    return str(source).startswith("hub:")


def check_hub(source: Path | str) -> re.Match[str]:
    """The parts "name" and "revision" of a hub source; DataError where one is missing."""
    match = _HUB.fullmatch(str(source))
    if match is None:
        raise DataError(f"{source}: expected hub:owner/name@revision, revision included")
    return match


def read_text(path: Path) -> str:
    """The UTF-8 text of `path`, unpacked if it ends in .gz; a DataError where it has none."""
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"{path}: expected a gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text, {error.reason}") from error


def read_rows(
    source: Path | str, fields: Fields, hub: HubSplit, *, field: str = "examples"
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, row) of a JSONL file, a JSON file, or the hub's `hub` split.

    A .json file holds a list of rows, or an object with that list as its `field`.
    """
    if is_hub(source):
        return _checked(source, _hub_rows(str(source), hub), fields)
    path = Path(source)
    if path.suffix == ".json":
        return _checked(path, _json_rows(path, fields, field), fields)
    return read_jsonl(path, fields)


def read_jsonl(path: Path, fields: Fields) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, row) of each JSON object in `path`; blank lines are skipped.

    Every row must have the `fields` with values of the given types; more fields may follow.
    """
    return _checked(path, _jsonl_rows(path, fields), fields)


def strings(path: Path | str, line: int, row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Field `name` of `row` as strings; a DataError unless it is a non-empty list of them."""
    values = row[name]
    if not values or not all(isinstance(value, str) for value in values):
        expected = f"{name!r} as a non-empty list of strings"
        raise DataError.at(path, line, expected, repr(values)[:60])
    return tuple(values)


def _checked(
    place: Path | str, rows: Iterable[tuple[int, Any]], fields: Fields
) -> Iterator[tuple[int, dict[str, Any]]]:
    expected = f"an object with {describe_fields(fields)}"
    for line, row in rows:
        if not isinstance(row, dict):
            raise DataError.at(place, line, expected, type(row).__name__)
        if not fields.keys() <= row.keys():
            raise DataError.at(place, line, expected, missing_fields(fields, row))
        for name, kind in fields.items():
            # bool is an int to isinstance, but no answer index
            if not isinstance(row[name], kind) or isinstance(row[name], bool):
                found = repr(row[name])[:60]
                raise DataError.at(place, line, f"{name!r} as {_kinds(kind)}", found)
        yield line, row


def _jsonl_rows(path: Path, fields: Fields) -> Iterator[tuple[int, Any]]:
    # Not splitlines(): it would also break rows at U+2028 inside strings.
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if text.strip():
            yield line, _parsed(path, line, text, f"an object with {describe_fields(fields)}")


def _json_rows(path: Path, fields: Fields, field: str) -> Iterator[tuple[int, Any]]:
    expected = f"a list of objects with {describe_fields(fields)}, or an object with {field!r}"
    content = _parsed(path, 1, read_text(path), expected)
    rows = content.get(field) if isinstance(content, dict) else content
    if not isinstance(rows, list):
        found = describe_fields(content) if isinstance(content, dict) else type(rows).__name__
        raise DataError.at(path, 1, expected, found)
    return iter(enumerate(rows, start=1))


def _parsed(path: Path, line: int, text: str, expected: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = line + error.lineno - 1
        raise DataError.at(path, place, expected, f"invalid JSON ({error.msg})") from error


def _hub_rows(source: str, hub: HubSplit) -> Iterator[tuple[int, Any]]:
    match = check_hub(source)
    import datasets

    number = 0
    for configuration in hub.configurations:
        try:
            rows = datasets.load_dataset(
                match["name"], configuration, split=hub.split, revision=match["revision"]
            )
        except Exception as error:
            what = f"split {hub.split!r}" + (f" of {configuration!r}" if configuration else "")
            raise DataError(f"{source}: {what} cannot be loaded: {error}") from error
        for row in rows:
            number += 1
            yield number, row


def _kinds(kind: type | tuple[type, ...]) -> str:
    several = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(each.__name__ for each in several)
