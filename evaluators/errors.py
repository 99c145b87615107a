"""The errors a user of the evaluators can cause."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import final


@final
class DataError(ValueError):
    """A row of a data file cannot be read; names the file, the line and the fields."""

    @classmethod
    def at(cls, path: Path | str, line: int, expected: str, found: str) -> DataError:
        """Build the error for line (or row) `line`, from 1, of `path`."""
        return cls(f"{path}:{line}: expected {expected}, found {found}")


@final
class NoRowsError(ValueError):
    """A data file, or a split of one, has no rows; names it."""


@final
class SandboxError(ValueError):
    """The requested sandbox level cannot be used on this machine."""


@final
class InexactModelError(ValueError):
    """A model cannot be called, or its scores would depend on how items are batched."""

    @classmethod
    def of(cls, kind: str, reason: str) -> InexactModelError:
        """Build the error for the architecture `kind`."""
        return cls(
            f"{kind} cannot be evaluated exactly ({' '.join(reason.split())}); expected a causal "
            f"language model that transformers can call on token ids, with a mask or without"
        )


@final
class EvaluationError(RuntimeError):
    """An evaluation could not be completed, on this rank or on another one."""


def unknown_name(kind: str, name: str, known: Sequence[str]) -> ValueError:
    """The error for a misspelt `name`, with the nearest of the `known` ones."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"Unknown {kind} {name!r}; expected one of {', '.join(known)}.{hint}")


def missing_fields(expected: Iterable[str], found: Iterable[object]) -> str:
    """What `found` fields there are instead of the `expected` ones, with the nearest names."""
    names = [str(name) for name in found]
    hints = []
    for name in expected:
        near = difflib.get_close_matches(name, names, n=1)
        if name not in names and near:
            hints.append(f"is {near[0]!r} meant to be {name!r}?")
    return "; ".join([describe_fields(names), *hints])


def describe_fields(fields: Iterable[object]) -> str:
    """The names of `fields` in one readable phrase."""
    return ", ".join(repr(str(field)) for field in fields) or "any fields"
