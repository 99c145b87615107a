"""Rows {prompt, response}, used as they are."""

from __future__ import annotations

from collections.abc import Iterator

from sweeps.finetune.example import Example, Row
from sweeps.finetune.training_sets.training_set import TrainingSet


def read(row: Row) -> Iterator[Example]:
    """One example."""
    prompt = row.text("prompt")
    yield Example(prompt, row.text("response"), prompt)


TRAINING_SET = TrainingSet(read)
