"""MBPP (Austin et al. 2021, arXiv 2108.07732): short Python problems, zero-shot, greedy.

Rows as released: {"task_id", "text", "code", "test_list", "test_setup_code"}. The prompt is a
docstring with the task and its first test, as EvalPlus has it. Official split by task id.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from evaluators.benchmark import Item, Split
from evaluators.benchmarks.generative import Decoding
from evaluators.benchmarks.program import ProgramBenchmark
from evaluators.rows import read_jsonl, strings

FIELDS = {"task_id": int, "text": str, "code": str, "test_list": list, "test_setup_code": str}
TASK_IDS: Mapping[Split, range] = {"validation": range(511, 601), "test": range(11, 511)}


def prompt_and_reference(row: Mapping[str, Any]) -> tuple[str, str]:
    """A released row as the prompt and the response to train on or to price."""
    prompt = f'"""\n{row["text"].strip()}\n{row["test_list"][0].strip()}\n"""\n'
    return prompt, _unix(row["code"]).rstrip() + "\n"


@final
class MBPP(ProgramBenchmark):
    """The fraction of greedy completions that pass the released tests."""

    name = "mbpp"
    decoding = Decoding(
        version="mbpp-docstring-1",
        max_new_tokens=512,
        stops=("\nassert ", "\nprint(", "\nif __name__", '\n"""'),
    )
    timeout = 8.0  # the reference of task 123 alone takes more than two seconds

    def load(self, path: Path, split: Split) -> list[Item]:
        """Validation: task ids 511 to 600. Test: 11 to 510."""
        return [
            _item(row, strings(path, line, row, "test_list"))
            for line, row in read_jsonl(path, FIELDS)
            if row["task_id"] in TASK_IDS[split]
        ]


def _item(row: Mapping[str, Any], tests: tuple[str, ...]) -> Item:
    prompt, reference = prompt_and_reference(row)
    return Item(
        id=f"mbpp/{row['task_id']}",
        prompt=prompt,
        reference=reference,
        tests=tuple(_unix(test) for test in tests),
        setup=_unix(row["test_setup_code"]),
    )


def _unix(text: str) -> str:
    """The released code has Windows line ends, which no model would be asked to write."""
    return text.replace("\r\n", "\n")
