"""Programs that must pass their tests, for your own data.

Rows: {"id", "prompt", "reference", "tests": [str], "entry_point"}; prompt + completion is the
program, each test a statement that raises when it fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import final

from evaluators.benchmark import Item, Split
from evaluators.benchmarks.program import Limits, ProgramBenchmark
from evaluators.benchmarks.template import TemplateRow
from evaluators.protocol import Decoding, Protocol
from evaluators.rows import read_jsonl
from evaluators.sandbox import Sandbox

FIELDS = {"id": str, "prompt": str, "reference": str, "tests": list, "entry_point": str}
PROTOCOL = Protocol(
    version="pass-at-1-2",
    validation="a file of its own",
    decoding=Decoding(
        256, ("\ndef ", "\nclass ", "\nassert ", "\nprint(", "\nif ", '\n"""', "\n#")
    ),
    metric="pass@1",
)


@final
class PassAt1(ProgramBenchmark):
    """The fraction of greedy completions that pass every test."""

    name = "pass_at_1"
    splits_are_files = True

    def __init__(self, metric: str, rules: Protocol, *, sandbox: str | Sandbox | None) -> None:
        super().__init__(metric, rules, Limits(1.0, inside=True), sandbox=sandbox)

    def load(self, path: Path, split: Split) -> list[Item]:
        """Every row of `path`: the two splits are two files."""
        return [
            Item(
                id=row["id"],
                prompt=row["prompt"],
                reference=row["reference"],
                tests=TemplateRow(path, line, row).tests("tests"),
                entry_point=row["entry_point"],
            )
            for line, row in read_jsonl(path, FIELDS)
        ]
