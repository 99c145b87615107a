"""Reading data row by row from a file or from the hub, with errors that name the place.

A source is a path, or "hub:owner/name@revision" for a data set of the Hugging Face hub. The
revision is required: data that change under a score make it no score.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.errors import DataError, NoRowsError, describe_fields, missing_fields
from evaluators.files import BrokenFile, records
from evaluators.hub import load_split

Fields = Mapping[str, type | tuple[type, ...]]
_OTHER_ROWS = "Rows with other fields need another benchmark, perhaps a YAML file of your own"
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


def read_rows(
    source: Path | str, fields: Fields, hub: HubSplit, *, field: str = "examples"
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line or row number from 1, row) of a file, or of the hub's `hub` split.

    As `read_jsonl`; a .json file may hold an object with the list of rows as its `field`.
    """
    if is_hub(source):
        return _checked(source, _hub_rows(str(source), hub), fields)
    return _checked(source, _file_rows(Path(source), fields, field), fields)


def read_jsonl(path: Path, fields: Fields) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line or row number from 1, row) of a file: .csv, .json (a list of rows), else JSONL.

    Each may end in .gz. Every row must have the `fields` with values of the given types; more
    fields may follow. Raises DataError; NoRowsError for a file without a row.
    """
    return _checked(path, _file_rows(Path(path), fields, "examples"), fields)


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
            found = f"{missing_fields(fields, row)}. {_OTHER_ROWS}"
            raise DataError.at(place, line, expected, found)
        for name, kind in fields.items():
            # bool is an int to isinstance, but no answer index
            if not isinstance(row[name], kind) or isinstance(row[name], bool):
                found = repr(row[name])[:60]
                raise DataError.at(place, line, f"{name!r} as {_kinds(kind)}", found)
        yield line, row


def _file_rows(path: Path, fields: Fields, field: str) -> Iterator[tuple[int, Any]]:
    expected = f"an object with {describe_fields(fields)}"
    number = 0
    try:
        for record in records(path, field=field):
            number = record.number
            if record.fault is not None:
                raise DataError.at(path, number, expected, record.fault.found)
            yield number, record.value
    except BrokenFile as error:
        raise DataError.at(path, error.line, error.expected, error.found) from error
    if not number:
        raise NoRowsError(f"{path}: expected at least one row, {expected}, found none")


def _hub_rows(source: str, hub: HubSplit) -> Iterator[tuple[int, Any]]:
    match = check_hub(source)
    number = 0
    for configuration in hub.configurations:
        try:
            rows = load_split(match["name"], configuration, hub.split, match["revision"])
        except DataError as error:
            raise DataError(f"{source}: {error}") from error
        for row in rows:
            number += 1
            yield number, row
    if not number:
        raise NoRowsError(f"{source}: expected rows in split {hub.split!r}, found none")


def _kinds(kind: type | tuple[type, ...]) -> str:
    several = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(each.__name__ for each in several)
