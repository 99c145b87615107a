"""Multiple choice by log-likelihood, for your own data.

Rows: {"id", "prompt", "choices": [str], "answer": int}; a choice follows the prompt as it is
written, so it usually starts with a space.
"""

from __future__ import annotations

from pathlib import Path
from typing import final

from evaluators.benchmark import Item, Split
from evaluators.benchmarks.choice import ChoiceBenchmark
from evaluators.benchmarks.template import TemplateRow
from evaluators.errors import DataError
from evaluators.protocol import Protocol
from evaluators.rows import read_jsonl

FIELDS = {"id": str, "prompt": str, "choices": list, "answer": int}
PROTOCOL = Protocol(
    version="multiple-choice-1",
    validation="a file of its own",
    extraction="the choice with the highest summed log-likelihood",
)


@final
class MultipleChoice(ChoiceBenchmark):
    """Accuracy of the most likely choice; the reference is the right choice."""

    name = "multiple_choice"
    splits_are_files = True

    def load(self, path: Path, split: Split) -> list[Item]:
        """Every row of `path`: the two splits are two files."""
        items = []
        for line, row in read_jsonl(path, FIELDS):
            choices = TemplateRow(path, line, row).choices("choices")
            answer = row["answer"]
            if not 0 <= answer < len(choices):
                expected = f"'answer' from 0 to {len(choices) - 1}"
                raise DataError.at(path, line, expected, str(answer))
            items.append(
                Item(row["id"], row["prompt"], choices[answer], choices, answer=str(answer))
            )
        return items
