"""The Alpaca format (Taori et al. 2023): {instruction, input (may be empty), output}."""

from __future__ import annotations

from collections.abc import Iterator

from sweeps.finetune.example import Example, Row, Turn
from sweeps.finetune.training_sets.training_set import Home, TrainingSet

_HEAD = (
    "Below is an instruction that describes a task{more}. "
    "Write a response that appropriately completes the request.\n\n"
)


def read(row: Row) -> Iterator[Example]:
    """One example, in the Alpaca template."""
    instruction = row.text("instruction")
    yield alpaca_example(instruction, row.text("input", default=""), row.text("output"))


def alpaca_example(instruction: str, given: str, output: str) -> Example:
    """The example of an instruction and its input, which may be empty."""
    head = _HEAD.format(more=", paired with an input that provides further context")
    middle = f"### Instruction:\n{instruction}\n\n### Input:\n{given}\n\n"
    if not given:
        head = _HEAD.format(more="")
        middle = f"### Instruction:\n{instruction}\n\n"
    asked = f"{instruction}\n{given}"
    turns = (Turn("user", asked.strip()),)
    return Example(f"{head}{middle}### Response:\n", output, asked, turns=turns)


TRAINING_SET = TrainingSet(read, Home("tatsu-lab/alpaca"))
