"""MBPP (Austin et al. 2021, arXiv 2108.07732) and MBPP+ (Liu et al. 2023, arXiv 2305.01210).

Rows as released. MBPP: {"task_id", "text", "code", "test_list", "test_setup_code"}; MBPP+:
{"task_id", "prompt", "code", "test_list", "test_imports", "test"}. Protocols: `full` has a
docstring with the task and its first test as the prompt, as EvalPlus has it, greedy pass@1;
`table1` is Magicoder's prompt (Wei et al. 2023, arXiv 2312.02120) on the tasks of MBPP+, so that
"mbpp" too reads that file, and runs its `test_list`.
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
from evaluators.rows import HubSplit, read_rows, strings
from evaluators.sandbox import Sandbox

FIELDS = {"task_id": int, "text": str, "code": str, "test_list": list, "test_setup_code": str}
PLUS_FIELDS = {
    "task_id": int,
    "prompt": str,
    "code": str,
    "test_list": list,
    "test_imports": list,
    "test": str,
}
TASK_IDS: Mapping[Split, range] = {
    "validation": range(511, 601),
    "test": range(11, 511),
    "all": range(11, 511),
}
# MBPP+ holds no other ids; those from 601 are MBPP's training tasks.
PLUS_IDS: Mapping[Split, range] = {**TASK_IDS, "all": range(1, 1000)}
HUB: Mapping[Split, HubSplit] = {
    "validation": HubSplit("validation", ("full",)),
    "test": HubSplit("test", ("full",)),
    "all": HubSplit("test", ("full",)),
}
# A result of 128 million values; sums over 10^8 numbers, sixteen times.
PLUS_SLOW = {
    "mbpp_plus/255": Limits(60.0, memory_mb=8192, inside=True),
    "mbpp_plus/599": Limits(240.0),
}
_OPENING = "```python"
_INSTRUCTION = "{text} Your code should satisfy the following assertion:\n```python\n{test}\n```"
VALIDATION = "task ids 511-600; test: 11-510"
FULL = Protocol(
    version="mbpp-docstring-2",
    validation=VALIDATION,
    prompt='"""\n{text}\n{test}\n"""\n',
    decoding=Decoding(512, ("\nassert ", "\nprint(", "\nif __name__", '\n"""')),
    extraction="the program up to the stop, or its code block",
    equality="all tests pass",
    metric="pass@1",
)
TABLE1 = replace(
    FULL,
    version="mbpp-magicoder-2",
    validation=f"{VALIDATION}; all: every task of MBPP+",
    prompt=MAGICODER.replace("{}", _INSTRUCTION) + _OPENING,
    decoding=Decoding(512, ("```",)),
)
PROTOCOLS = {"table1": TABLE1, "full": FULL}
PLUS_PROTOCOLS = {
    "table1": replace(TABLE1, version="mbpp-plus-magicoder-2"),
    "full": replace(FULL, version="mbpp-plus-2", validation=TABLE1.validation),
}


def prompt_and_reference(row: Mapping[str, Any]) -> tuple[str, str]:
    """A released row as the prompt and the response to train on or to price."""
    prompt = f'"""\n{row["text"].strip()}\n{row["test_list"][0].strip()}\n"""\n'
    return prompt, _unix(row["code"]).rstrip() + "\n"


@final
class MBPP(ProgramBenchmark):
    """The fraction of completions that pass the tests: the released ones, or those of MBPP+."""

    def __init__(
        self, metric: str, rules: Protocol, *, sandbox: str | Sandbox | None, plus: bool = False
    ) -> None:
        # References take up to nine seconds on a busy machine.
        super().__init__(metric, rules, Limits(20.0), sandbox=sandbox)
        self.name = "mbpp_plus" if plus else "mbpp"
        self._plus = plus
        self._released = rules.version == FULL.version  # else the rows of MBPP+
        self.slow = PLUS_SLOW if plus else {}

    def load(self, path: Path, split: Split) -> list[Item]:
        """Validation: task ids 511 to 600. Test: 11 to 510. All: these, or MBPP+ whole."""
        if self._released:
            rows, ids = read_rows(path, FIELDS, HUB[split]), TASK_IDS[split]
        else:
            rows, ids = read_rows(path, PLUS_FIELDS, HubSplit("test")), PLUS_IDS[split]
        return [self._item(path, line, row) for line, row in rows if row["task_id"] in ids]

    def _item(self, path: Path, line: int, row: Mapping[str, Any]) -> Item:
        tests = strings(path, line, row, "test_list")
        text = (row["text"] if self._released else row["prompt"]).strip()
        prompt, reference = prompt_and_reference({**row, "text": text})
        setup = row["test_setup_code"] if self._released else "\n".join(row["test_imports"])
        wrapped = self.rules.prompt != FULL.prompt
        chat = ChatItem(f"{text}\n{tests[0]}")
        if wrapped:
            sentence = text if text.endswith(".") else f"{text}."
            prompt, question = (
                each.replace("{text}", sentence).replace("{test}", tests[0].strip())
                for each in (self.rules.prompt, _INSTRUCTION)
            )
            chat = ChatItem(question, _OPENING)
            reference = f"\n{reference}"
        return Item(
            id=f"{self.name}/{row['task_id']}",
            prompt=prompt,
            reference=reference,
            tests=(without_numpy(row["test"]),) if self._plus else tuple(map(_unix, tests)),
            setup=_unix(setup),
            stub="" if wrapped else None,
            chat=chat,
        )


def _unix(text: str) -> str:
    """The released code has Windows line ends, which no model would be asked to write."""
    return text.replace("\r\n", "\n")
