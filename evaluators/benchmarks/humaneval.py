"""HumanEval (Chen et al. 2021, arXiv 2107.03374) and HumanEval+ (Liu et al. 2023, 2305.01210).

Rows as released: {"task_id", "prompt", "canonical_solution", "test", "entry_point"}. Protocols:
`table1` is Magicoder's prompt (Wei et al. 2023, arXiv 2312.02120), greedy pass@1; `table2`
open-instruct's pass@10 from 20 samples at temperature 0.8, `table2_chat` its chat format; `full`
the plain prompt, greedy pass@1. In HumanEval+ v0.1.10 the reference of HumanEval/32 fails its own
tests: the data's fault, so that 163 of 164 is the best score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, final

from evaluators.benchmark import ChatItem, Item, Split
from evaluators.benchmarks.evalplus import without_numpy
from evaluators.benchmarks.program import Limits, ProgramBenchmark
from evaluators.prompt_formats import MAGICODER
from evaluators.protocol import Decoding, Protocol
from evaluators.rows import HubSplit, read_rows
from evaluators.sandbox import Sandbox
from evaluators.split import is_validation

FIELDS = {
    "task_id": str,
    "prompt": str,
    "canonical_solution": str,
    "test": str,
    "entry_point": str,
}
_OPENING = "```python\n{prompt}"
_INSTRUCTION = "Write a solution to the following problem:\n```python\n{prompt}\n```"
HELD_OUT = 0.2
# Tasks of HumanEval+ whose references take two seconds or more, on an idle machine.
SLOW = {f"HumanEval/{task}": Limits(40.0) for task in (15, 36, 59, 83, 94, 130, 139)}
VALIDATION = "the tasks whose id's hash is in the first 20 %; test: the others; all: every task"
FULL = Protocol(
    version="humaneval-2",
    validation=VALIDATION,
    decoding=Decoding(512, ("\nclass", "\ndef", "\n#", "\nif", "\nprint")),
    extraction="the program up to the stop, or its code block",
    equality="all tests pass",
    metric="pass@1",
)
_TABLE2 = replace(
    FULL,
    version="humaneval-open-instruct-2",
    decoding=replace(FULL.decoding, temperature=0.8, top_p=0.95, samples=20, k=10),
    metric="pass@10",
)
PROTOCOLS = {
    "table1": replace(
        FULL,
        version="humaneval-magicoder-2",
        prompt=MAGICODER.replace("{}", _INSTRUCTION) + _OPENING,
        decoding=Decoding(512, ("```",)),
    ),
    "table2": _TABLE2,
    "table2_chat": replace(
        _TABLE2,
        version="humaneval-open-instruct-chat-1",
        prompt="Complete the following python function.\n\n\n{prompt}",
        prompt_format="tulu",
        opening="Here is the completed function:\n\n\n{prompt}",
    ),
    "full": FULL,
}
PLUS_PROTOCOLS = {
    preset: replace(PROTOCOLS[preset], version=f"plus-{PROTOCOLS[preset].version}")
    for preset in ("table1", "full")
}


@final
class HumanEval(ProgramBenchmark):
    """The fraction of tasks that a completion solves; `plus` for the tests of HumanEval+."""

    def __init__(
        self, metric: str, rules: Protocol, *, sandbox: str | Sandbox | None, plus: bool = False
    ) -> None:
        super().__init__(metric, rules, Limits(5.0), sandbox=sandbox)
        self.name = "humaneval_plus" if plus else "humaneval"
        self.slow = SLOW if plus else {}

    def load(self, path: Path, split: Split) -> list[Item]:
        """Validation: a fifth of the tasks by hash. Test: the others. All: every task."""
        return [
            self._item(row)
            for _, row in read_rows(path, FIELDS, HubSplit("test"))
            if split == "all" or is_validation(row["task_id"], HELD_OUT) == (split == "validation")
        ]

    def _item(self, row: Mapping[str, Any]) -> Item:
        code = row["prompt"]
        wrapped = self.rules.prompt.endswith(_OPENING)
        question, opening = _INSTRUCTION, _OPENING
        if self.rules.prompt_format != "raw":
            question, opening = self.rules.prompt, self.rules.opening
        shown = code.strip() if wrapped else code
        return Item(
            id=row["task_id"],
            prompt=self.rules.prompt.replace("{prompt}", shown),
            # After the stripped prompt, the body starts on a new line.
            reference="\n" * wrapped + row["canonical_solution"],
            tests=(without_numpy(row["test"]), f"check({row['entry_point']})"),
            entry_point=row["entry_point"],
            stub=None if self.rules.prompt == FULL.prompt else code,
            chat=ChatItem(question.replace("{prompt}", shown), opening.replace("{prompt}", shown)),
        )
