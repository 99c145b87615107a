"""Training files to rows: JSON Lines or a JSON array, each row with the place it came from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn


class RowError(ValueError):
    """Training data that cannot be used: names file, line, what was expected, what was found."""


class Row:
    """One JSON object and its place ("train.jsonl, line 3"); getters name what is wrong."""

    def __init__(self, place: str, fields: Mapping[str, Any]) -> None:
        """Hold `fields` read at `place`."""
        self.place = place
        self.fields = fields

    def text(self, name: str, *, default: str | None = None) -> str:
        """The non-empty string field `name`; `default` instead where missing or empty."""
        value = self.fields.get(name, default)
        if value in ("", None) and default is not None:
            return default
        if not isinstance(value, str) or not value.strip():
            found = f"{value!r:.60}" if name in self.fields else self._names()
            self.fail(f"a non-empty string '{name}'", found)
        return value

    def objects(self, name: str) -> list[Mapping[str, Any]]:
        """The non-empty list of objects in field `name`."""
        value = self.fields.get(name)
        if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
            found = f"{value!r:.60}" if name in self.fields else self._names()
            self.fail(f"a list of objects '{name}'", found)
        if not value:
            self.fail(f"a list of objects '{name}'", "an empty list")
        return value

    def fail(self, expected: str, found: str) -> NoReturn:
        """Raise the RowError of this row."""
        raise RowError(f"{self.place}: expected {expected}, found {found}")

    def _names(self) -> str:
        return "the fields " + (", ".join(sorted(self.fields)) or "(none)")


def files(paths: str) -> list[Path]:
    """The existing files of a comma separated list."""
    found = [Path(part.strip()).expanduser() for part in paths.split(",") if part.strip()]
    for path in found:
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "nothing there"
            raise RowError(f"data.path: expected a .jsonl or .json file at {path}, found {kind}")
    if not found:
        raise RowError(f"data.path: expected a file or several, comma separated, got {paths!r}")
    return found


def read_rows(path: Path) -> Iterator[Row | RowError]:
    """Every row of `path` in order; a row that is no JSON object comes as its RowError."""
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RowError(f"{path}: expected UTF-8 text, found {error.reason}") from error
    if content.lstrip().startswith("["):
        yield from _array(path, content)
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield _row(f"{path}, line {number}", line)


def _array(path: Path, content: str) -> Iterator[Row | RowError]:
    try:
        values = json.loads(content)
    except json.JSONDecodeError as error:
        message = f"{path}, line {error.lineno}: expected a JSON array, found {error.msg}"
        raise RowError(message) from error
    for number, value in enumerate(values, start=1):
        yield _object(f"{path}, row {number}", value)


def _row(place: str, line: str) -> Row | RowError:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return RowError(f"{place}: expected one JSON object, found {error.msg} in {line!r:.60}")
    return _object(place, value)


def _object(place: str, value: Any) -> Row | RowError:
    if isinstance(value, dict):
        return Row(place, value)
    return RowError(f"{place}: expected one JSON object, found {value!r:.60}")
