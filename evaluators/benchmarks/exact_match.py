"""Exact match of a final answer, for your own data.

Rows: {"id", "prompt", "reference", "answer"}; the completion must say "The answer is: ...".
"""

from __future__ import annotations

from pathlib import Path
from typing import final

from evaluators.benchmark import Item, Split
from evaluators.benchmarks.final_answer import AnswerBenchmark
from evaluators.benchmarks.template import TemplateRow
from evaluators.protocol import Decoding, Protocol
from evaluators.rows import read_jsonl

FIELDS = {"id": str, "prompt": str, "reference": str, "answer": str}
PROTOCOL = Protocol(
    version="exact-match-1",
    validation="a file of its own",
    decoding=Decoding(128, ("\nQuestion:",)),
    extraction="answer_after_marker",
    equality="normalised",
)


@final
class ExactMatch(AnswerBenchmark):
    """Accuracy of the extracted final answer after normalising numbers."""

    name = "exact_match"
    splits_are_files = True

    def load(self, path: Path, split: Split) -> list[Item]:
        """Every row of `path`: the two splits are two files."""
        return [
            Item(
                row["id"],
                row["prompt"],
                row["reference"],
                answer=TemplateRow(path, line, row).text("{answer}"),
            )
            for line, row in read_jsonl(path, FIELDS)
        ]
