"""Magicoder-Evol-Instruct-110K (Wei et al. 2023, arXiv 2312.02120): {instruction, response}.

The prompt is Magicoder's own.
"""

from __future__ import annotations

from collections.abc import Iterator

from sweeps.finetune.example import Example, Row, Turn
from sweeps.finetune.training_sets.training_set import Home, TrainingSet

PROMPT = (
    "You are an exceptionally intelligent coding assistant that consistently delivers accurate "
    "and reliable responses to user instructions.\n\n"
    "@@ Instruction\n{instruction}\n\n@@ Response\n"
)


def read(row: Row) -> Iterator[Example]:
    """One example."""
    instruction, response = row.text("instruction"), row.text("response")
    prompt = PROMPT.format(instruction=instruction)
    yield Example(prompt, response, instruction, turns=(Turn("user", instruction),))


TRAINING_SET = TrainingSet(read, Home("ise-uiuc/Magicoder-Evol-Instruct-110K"))
