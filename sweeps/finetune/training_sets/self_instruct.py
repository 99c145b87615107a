"""The Self-Instruct format (Wang et al. 2023): {instruction, instances: [{input, output}]}."""

from __future__ import annotations

from collections.abc import Iterator

from sweeps.finetune.example import Example, Row
from sweeps.finetune.training_sets.alpaca import alpaca_example
from sweeps.finetune.training_sets.training_set import TrainingSet


def read(row: Row) -> Iterator[Example]:
    """An example for each instance, in the Alpaca template."""
    instruction = row.text("instruction")
    for number, instance in enumerate(row.objects("instances"), start=1):
        inner = Row(f"{row.place}, instance {number}", instance)
        yield alpaca_example(instruction, inner.text("input", default=""), inner.text("output"))


TRAINING_SET = TrainingSet(read)
