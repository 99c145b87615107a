"""A benchmark of your own in Python: does the model finish a sentence that reads both ways?

Rows: {"id", "start"}; the score is the length of the longest palindrome, as a fraction of the
text, so no rule of the YAML forms fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evaluators.benchmark import Benchmark, Item, Split
from evaluators.benchmarks.generative import GenerativeBenchmark, Grade
from evaluators.protocol import Decoding, Protocol
from evaluators.rows import read_jsonl

PROTOCOL = Protocol(
    version="palindromes-1",
    validation="a file of its own",
    prompt="{start}",
    decoding=Decoding(max_new_tokens=16, stops=("\n",)),
    extraction="the start and the completion, letters only",
    metric="accuracy",
)


class Palindromes(GenerativeBenchmark):
    """The longest palindrome at the start, as a fraction of the letters."""

    name = "palindromes"

    def load(self, path: Path, split: Split) -> list[Item]:
        """Every row of `path`."""
        return [
            Item(row["id"], row["start"], reference=row["start"][::-1])
            for _, row in read_jsonl(path, {"id": str, "start": str})
        ]

    def grade(self, items: Sequence[Item], texts: Sequence[str]) -> list[Grade]:
        """A fraction in [0, 1]."""
        grades = []
        for item, text in zip(items, texts, strict=True):
            letters = [sign for sign in (item.prompt + text).lower() if sign.isalpha()]
            lengths = range(len(letters), 0, -1)
            longest = next((n for n in lengths if letters[:n] == letters[:n][::-1]), 0)
            score = longest / len(letters) if text.strip() else 0.0
            grades.append(Grade(text.strip() or None, score))
        return grades


def benchmark(metric: str | None, sandbox: str | None) -> Benchmark:
    """What `evaluators.benchmarks.build` calls."""
    return Palindromes(metric or PROTOCOL.metric, PROTOCOL)
