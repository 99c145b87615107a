"""Exact match of a final answer, for your own data.

Rows: {"id", "prompt", "reference", "answer"}; the completion must say "The answer is: ...".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

from evaluators.answers import extract_answer, same_answer
from evaluators.benchmark import Item, Split
from evaluators.benchmarks.generative import Decoding, GenerativeBenchmark, Grade
from evaluators.rows import read_jsonl

FIELDS = {"id": str, "prompt": str, "reference": str, "answer": str}


@final
class ExactMatch(GenerativeBenchmark):
    """Accuracy of the extracted final answer after normalising numbers."""

    name = "exact_match"
    decoding = Decoding(version="exact-match-1", max_new_tokens=128, stops=("\nQuestion:",))
    extraction = "the line after the last 'The answer is:', numbers normalised"

    def load(self, path: Path, split: Split) -> list[Item]:
        """Every row of `path`: the two splits are two files."""
        return [
            Item(row["id"], row["prompt"], row["reference"], answer=row["answer"])
            for _, row in read_jsonl(path, FIELDS)
        ]

    def grade(self, items: Sequence[Item], texts: Sequence[str]) -> list[Grade]:
        """1 for the gold answer, else 0."""
        answers = [extract_answer(text) for text in texts]
        return [
            Grade(answer, float(same_answer(answer, item.answer)))
            for item, answer in zip(items, answers, strict=True)
        ]
