"""Short free answers, for your own data: token F1 as in SQuAD (Rajpurkar et al. 2016).

Rows: {"id", "prompt", "reference"}; the answer is the completion's first line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

from evaluators.answers import f1
from evaluators.benchmark import Item, Split
from evaluators.benchmarks.generative import GenerativeBenchmark, Grade
from evaluators.benchmarks.template import TemplateRow
from evaluators.protocol import Decoding, Protocol
from evaluators.rows import read_jsonl

PROTOCOL = Protocol(
    version="short-answer-1",
    validation="a file of its own",
    decoding=Decoding(32, ("\n",)),
    extraction="the first line; SQuAD normalisation",
    equality="token F1",
    metric="f1",
)


@final
class ShortAnswer(GenerativeBenchmark):
    """Mean token F1 between the first line of the completion and the reference."""

    name = "short_answer"
    splits_are_files = True

    def load(self, path: Path, split: Split) -> list[Item]:
        """Every row of `path`: the two splits are two files."""
        return [
            Item(
                row["id"],
                row["prompt"],
                row["reference"],
                answer=TemplateRow(path, line, row).text("{reference}").strip(),
            )
            for line, row in read_jsonl(path, {"id": str, "prompt": str, "reference": str})
        ]

    def grade(self, items: Sequence[Item], texts: Sequence[str]) -> list[Grade]:
        """F1 in [0, 1]."""
        return [
            Grade(text.strip() or None, f1(text, item.answer))
            for item, text in zip(items, texts, strict=True)
        ]
