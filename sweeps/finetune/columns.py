"""Read the fields of a format from columns of other names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sweeps.finetune.data_config import COLUMNS
from sweeps.finetune.example import Row, RowError
from sweeps.storage.errors import nearest

_OPTIONAL = ("input", "system", "tools")


def required(name: str) -> set[str]:
    """The fields that every row of a format has."""
    return {*COLUMNS[name]} - {*_OPTIONAL}


def renamed(
    rows: Iterable[Row | RowError], columns: Mapping[str, str]
) -> Iterator[Row | RowError]:
    """The rows, with each field of `columns` taken from its column; `a.b` is b within a.

    A row without the column of a required field becomes a RowError. A column that no row has
    raises one.
    """
    unseen = dict(columns)
    for row in rows:
        if isinstance(row, RowError):
            yield row
            continue
        try:
            found = {name: _value(row, name, column) for name, column in columns.items()}
        except RowError as error:
            yield error
            continue
        for name, value in found.items():
            if value is not None:
                unseen.pop(name, None)
        yield Row(row.place, {**row.fields, **found})
    for name, column in unseen.items():
        raise RowError(
            f"data.columns.{name}: expected a column of the rows, no row has '{column}'"
        )


def _value(row: Row, name: str, column: str) -> Any:
    """The value in a column; None if an optional field has none."""
    if column in row.fields:
        return row.fields[column]
    here: Any = row.fields
    for key in column.split("."):
        known = list(here) if isinstance(here, Mapping) else []
        if key not in known:
            if name in _OPTIONAL:
                return None
            hint = f" ({nearest(key, known)})" if known else ""
            row.fail(f"the column '{column}' of data.columns.{name}", f"no '{key}'{hint}")
        here = here[key]
    return here
