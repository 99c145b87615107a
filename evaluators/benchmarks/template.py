"""One row of a user's data: templates filled with its fields, and lists taken from it.

A field is named by its path: `question`, `choices.text`, `answers.0.text`.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from evaluators.errors import DataError, missing_fields

FIELD = re.compile(r"\{(\w+(?:\.\w+)*)\}")


@dataclass(frozen=True)
class TemplateRow:
    """A row with its place; each mistake is a DataError that names both."""

    path: Path
    line: int
    values: Mapping[str, Any]

    def error(self, expected: str, found: str) -> DataError:
        """The error for this row."""
        return DataError.at(self.path, self.line, expected, found)

    def filled(self, template: str) -> str:
        """`template` with the row's fields in it."""
        return FIELD.sub(lambda match: self._text(match[1]), template)

    def text(self, template: str) -> str:
        """As `filled`, but not blank: there is nothing to ask or to compare with."""
        found = self.filled(template)
        if not found.strip():
            raise self.error(f"a text for '{template}'", f"{found!r:.60}")
        return found

    def strings(self, name: str) -> tuple[str, ...]:
        """The texts in the field `name`, at least one; a single text stands for a list of it."""
        value = self._value(name)
        if isinstance(value, str):
            return (value,)
        if not (isinstance(value, list | tuple) and value):
            raise self.error(f"{name!r} as a non-empty list of strings", _shown(value, name))
        if not all(isinstance(each, str) for each in value):
            raise self.error(f"{name!r} as a non-empty list of strings", repr(value)[:60])
        return tuple(value)

    def choices(self, name: str) -> tuple[str, ...]:
        """As `strings`, no two the same, and none empty, which would always be likeliest."""
        found = self.strings(name)
        if not all(found):
            raise self.error(f"choices of at least one character in {name!r}", repr(found)[:60])
        twice = [text for text, count in Counter(found).items() if count > 1]
        if twice:
            raise self.error(f"different choices in {name!r}", f"{twice[0]!r} more than once")
        return found

    def tests(self, name: str) -> tuple[str, ...]:
        """As `strings`, each a Python program that does something."""
        found = self.strings(name)
        for number, text in enumerate(found, 1):
            try:
                works = bool(ast.parse(text).body)
            except (SyntaxError, ValueError) as error:
                raise self.error(f"test {number} in {name!r} as Python", str(error)) from error
            if not works:
                raise self.error(f"test {number} in {name!r} as Python", f"no statement: {text!r}")
        return found

    def place(self, template: str, count: int, labels: str) -> int:
        """The place of the right one of `count` choices, which `template` gives.

        As one of the field `labels`, or without it as a number from 0 or a letter from A.
        """
        if count < 2:
            raise self.error("at least two choices", str(count))
        answer = self.filled(template).strip()
        known = [str(each) for each in self._value(labels)] if labels else []
        if labels and (len(known) != count or known.count(answer) != 1):
            raise self.error(
                f"an answer that is one of {count} {labels!r}", f"{answer!r}: {known}"
            )
        if labels:
            return known.index(answer)
        if answer.isdecimal() and int(answer) < count:
            return int(answer)
        if len(answer) == 1 and answer in ascii_uppercase[:count]:
            return ascii_uppercase.index(answer)
        raise self.error(f"an answer from 0 to {count - 1}", repr(answer))

    def _value(self, name: str) -> Any:
        """What the path `name` leads to; a field may have dots in its name."""
        if name in self.values:
            return self.values[name]
        value: Any = self.values
        for part in name.split("."):
            if isinstance(value, list | tuple) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            elif isinstance(value, Mapping) and part in value:
                value = value[part]
            else:
                fields = value if isinstance(value, Mapping) else self.values
                raise self.error(f"a field {name!r}", missing_fields([part], fields))
        return value

    def _text(self, name: str) -> str:
        value = self._value(name)
        if not isinstance(value, str | int | float) or value != value:  # JSON's NaN
            raise self.error(f"{name!r} as a text or a number", _shown(value, name))
        return str(value)


def _shown(value: Any, name: str) -> str:
    """`value` in a phrase, with the paths that lead further where it holds more."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "several fields: " + ", ".join(f"{name}.{key}" for key in value)
    if isinstance(value, list | tuple) and value:
        return f"a list, {value!r:.60}; its first entry is {name}.0"
    return f"{value!r:.60}"
