"""Guess the format and the columns of training rows from the first row, for ``init``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import final

from sweeps.config.path_types import resolve_data
from sweeps.finetune.columns import renamed, required
from sweeps.finetune.data_config import COLUMNS, DataConfig
from sweeps.finetune.example import Row, RowError

PROMPTS = ("prompt", "question", "instruction", "query", "problem", "input")
RESPONSES = ("response", "answer", "output", "completion", "solution", "target")
"""Usual names of the two columns of a training row, the likelier ones first."""
DEFAULT = "prompt_response"


@final
@dataclass(frozen=True)
class RowFormat:
    """A format of training rows. `columns`: those of its fields that have other names."""

    name: str
    columns: Mapping[str, str] = field(default_factory=dict)
    is_guessed: bool = False

    def remark(self) -> str:
        """A sentence on a guess, which its reader should check; none for the default format."""
        if not self.is_guessed or (self.name == DEFAULT and not self.columns):
            return ""
        named = ", ".join(f"{name}: {column}" for name, column in self.columns.items())
        columns = f", columns {{{named}}}" if named else ""
        return f"Training rows: format {self.name}{columns}, guessed from the first row."


def guess_format(train: str, benchmark: str) -> RowFormat:
    """The first known format that reads the first training row, `benchmark`'s own before others.

    Raises:
        ValueError: there are no rows, or none is read; says how to name the columns.
    """
    from sweeps.finetune.row_sources import read_source  # imports for seconds

    rows = read_source(resolve_data(DataConfig(path=train), Path()))
    row = next(rows, RowError(f"{train}: expected at least one training row, found none"))
    if isinstance(row, RowError):
        raise row
    known = next((each for each in _candidates(row, benchmark) if _reads(each, row)), None)
    # Where all fields are there, the checks that follow say what is wrong with their values.
    named = (RowFormat(name) for name in COLUMNS if required(name) <= row.fields.keys())
    if (found := known or next(named, None)) is None:
        row.fail("the columns 'prompt' and 'response'", f"{', '.join(row.fields)}. {_advice(row)}")
    return replace(found, is_guessed=True)


def _candidates(row: Row, benchmark: str) -> Iterator[RowFormat]:
    yield from (RowFormat(name) for name in (benchmark, *COLUMNS))
    for name, column in product(("messages", "sharegpt"), row.fields):
        yield RowFormat(name, {COLUMNS[name][0]: column})
    for prompt, response in product(PROMPTS, RESPONSES):
        yield RowFormat(DEFAULT, {"prompt": prompt, "response": response})


def _reads(given: RowFormat, row: Row) -> bool:
    from sweeps.finetune.training_sets import TRAINING_SETS  # imports for seconds

    if given.name not in TRAINING_SETS:
        return False
    try:
        for each in renamed([row], given.columns):
            if isinstance(each, RowError):
                return False
            list(TRAINING_SETS[given.name](each))
    except RowError:
        return False
    return True


def _advice(row: Row) -> str:
    texts = [name for name, value in row.fields.items() if isinstance(value, str)]
    prompt, response = texts if len(texts) == 2 else ("COLUMN", "COLUMN")
    return (
        f"Run the same command with --column prompt={prompt} --column response={response}, or "
        "with the --format of the rows"
    )
