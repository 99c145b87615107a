"""GSM8K (Cobbe et al. 2021): grade-school word problems, zero-shot, greedy.

Rows: {"question", "answer"} as released, with the gold answer after "####". Two protocols:
"gsm8k" has a plain prompt that suits small contexts, "gsm8k_metamath" the Alpaca prompt with
"Let's think step by step." of MetaMath (Yu et al. 2023, arXiv 2309.12284).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

from evaluators.answers import MARKER, extract_number, same_answer
from evaluators.benchmark import Item, Split
from evaluators.benchmarks.generative import Decoding, GenerativeBenchmark, Grade
from evaluators.errors import DataError
from evaluators.rows import read_jsonl
from evaluators.split import is_validation

_CALCULATION = re.compile(r"<<.*?>>")
METAMATH_PROMPT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{question}\n\n### Response: Let's think step by step."
)


def plain_prompt(question: str) -> str:
    """The prompt of "gsm8k", in training and in evaluation."""
    return f"Question: {question.strip()}\nAnswer:"


def metamath_prompt(question: str) -> str:
    """The prompt of "gsm8k_metamath"."""
    return METAMATH_PROMPT.format(question=question.strip())


def reference_solution(answer: str) -> str:
    """The released solution without calculator marks, ending in "The answer is: N"."""
    solution, _, gold = answer.partition("####")
    return f" {_CALCULATION.sub('', solution).strip()}\n{MARKER} {gold.strip()}"


def prompt_and_reference(row: Mapping[str, str]) -> tuple[str, str]:
    """A released row as the prompt and the response to train on or to price."""
    return plain_prompt(row["question"]), reference_solution(row["answer"])


@final
class GSM8K(GenerativeBenchmark):
    """Accuracy of the number after "The answer is:"."""

    extraction = "the first number after the last 'The answer is:'"

    def __init__(self, metric: str, *, metamath: bool = False) -> None:
        super().__init__(metric)
        self._prompt = metamath_prompt if metamath else plain_prompt
        self.name = "gsm8k_metamath" if metamath else "gsm8k"
        self.decoding = Decoding(
            version=f"{self.name}-1",
            max_new_tokens=512,
            stops=("Instruction:", "Question:") if metamath else ("\nQuestion:",),
        )

    def load(self, path: Path, split: Split) -> list[Item]:
        """Validation: the held-out questions of the training file. Test: every row."""
        items = []
        for line, row in read_jsonl(path, {"question": str, "answer": str}):
            if "####" not in row["answer"]:
                raise DataError.at(path, line, "'answer' with '#### N'", repr(row["answer"])[-40:])
            if split == "test" or is_validation(row["question"]):
                items.append(self._item(line, row))
        return items

    def grade(self, items: Sequence[Item], texts: Sequence[str]) -> list[Grade]:
        """1 for the gold number, else 0."""
        answers = [extract_number(text) for text in texts]
        return [
            Grade(answer, float(same_answer(answer, item.answer)))
            for item, answer in zip(items, answers, strict=True)
        ]

    def _item(self, line: int, row: Mapping[str, str]) -> Item:
        return Item(
            id=f"gsm8k/{line}",
            prompt=self._prompt(row["question"]),
            reference=reference_solution(row["answer"]),
            answer=row["answer"].partition("####")[2].strip(),
        )
