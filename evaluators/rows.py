"""Reading data files row by row, with errors that name file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evaluators.errors import DataError, describe_fields


def read_text(path: Path) -> str:
    """The UTF-8 text of `path`; a DataError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text, {error.reason}") from error


def read_jsonl(
    path: Path, fields: Mapping[str, type | tuple[type, ...]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, row) of each JSON object in `path`; blank lines are skipped.

    Every row must have the `fields` with values of the given types; more fields may follow.
    """
    expected = f"an object with {describe_fields(fields)}"
    # Not splitlines(): it would also break rows at U+2028 inside strings.
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError.at(path, line, expected, f"invalid JSON ({error.msg})") from error
        if not isinstance(row, dict):
            raise DataError.at(path, line, expected, type(row).__name__)
        if not fields.keys() <= row.keys():
            raise DataError.at(path, line, expected, describe_fields(row))
        for name, kind in fields.items():
            # bool is an int to isinstance, but no answer index
            if not isinstance(row[name], kind) or isinstance(row[name], bool):
                raise DataError.at(path, line, f"{name!r} as {_kinds(kind)}", repr(row[name])[:60])
        yield line, row


def strings(path: Path, line: int, row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Field `name` of `row` as strings; a DataError unless it is a non-empty list of them."""
    values = row[name]
    if not values or not all(isinstance(value, str) for value in values):
        expected = f"{name!r} as a non-empty list of strings"
        raise DataError.at(path, line, expected, repr(values)[:60])
    return tuple(values)


def _kinds(kind: type | tuple[type, ...]) -> str:
    several = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(each.__name__ for each in several)
