"""One row of training data with the place it came from, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
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
