"""Bits per byte of a text: what a model has forgotten of it, or learned, in one number.

A plain text file, or JSONL with {"text"}. The text is cut at line ends into pieces of about a
thousand bytes, each priced after up to 500 characters of what precedes it in its document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import final

from evaluators.benchmark import Benchmark, Item, ItemRecord, Split
from evaluators.benchmarks.generative import cost_record, reference_costs
from evaluators.errors import NoRowsError
from evaluators.files import ENDINGS, ending, read_text
from evaluators.protocol import Protocol
from evaluators.rows import HubSplit, is_hub, read_rows
from evaluators.split import is_validation
from evaluators.text_model import TextModel

PIECE = 1000
CONTEXT = 500
HELD_OUT = 0.2
PROTOCOL = Protocol(
    version="text-1",
    validation="the pieces whose hash is in the first 20 %; test: the others; all: every piece",
    prompt=f"the preceding {CONTEXT} characters, a new line at the start",
    extraction=f"pieces of at least {PIECE} bytes, cut at line ends",
    metric="bits_per_byte",
)


@final
class Text(Benchmark):
    """Bits per byte, pooled over the pieces; the score is their negative."""

    name, asks = "text", False

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def load(self, path: Path, split: Split) -> list[Item]:
        """Validation: a fifth of the pieces by hash. Test: the others. All: every piece."""
        items = [
            Item(
                id=f"text/{number}/{start}",
                prompt=text[max(0, start - CONTEXT) : start] or "\n",
                reference=text[start:end],
                cluster=str(number),
            )
            for number, text in _documents(path)
            for start, end in _pieces(text)
        ]
        if not items:
            raise NoRowsError(f"{path}: expected a text, found none")
        return [
            item
            for item in items
            if split == "all" or is_validation(item.reference, HELD_OUT) == (split == "validation")
        ]

    def score(self, lm: TextModel, items: Sequence[Item]) -> list[ItemRecord]:
        """One record per piece, in order."""
        costs = reference_costs(lm, items)
        return [cost_record(item, cost) for item, cost in zip(items, costs, strict=True)]

    def protocol(self) -> dict[str, object]:
        """Everything but model and data that a score depends on."""
        return {"benchmark": self.name, "metric": self.metric, "rules": asdict(PROTOCOL)}


def _documents(path: Path) -> Iterator[tuple[int, str]]:
    if is_hub(path) or ending(path) in ENDINGS:
        for line, row in read_rows(path, {"text": str}, HubSplit("train")):
            yield line, row["text"]
    else:
        yield 1, read_text(Path(path))


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of consecutive pieces that together are `text`, none of it blank."""
    start = size = 0
    for line_end in [place + 1 for place, sign in enumerate(text) if sign == "\n"] + [len(text)]:
        size = len(text[start:line_end].encode())
        if size >= PIECE or (line_end == len(text) and size):
            if text[start:line_end].strip():
                yield start, line_end
            start = line_end
