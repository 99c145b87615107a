"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): grade-school word problems, greedy.

Rows: {"question", "answer"} as released, with the gold answer after "####". Protocols: the plain
zero-shot prompt suits small contexts; `table1` is MetaMath's (Yu et al. 2023, arXiv 2309.12284);
`table2` open-instruct's (Wang et al. 2023, arXiv 2306.04751) with the eight demonstrations of Wei
et al. 2022 (arXiv 2201.11903) on its 200 questions, `table2_chat` its chat format; `full` the same
as `table2` on all 1,319, for solutions of any number of lines.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import final

from evaluators.answers import MARKER
from evaluators.benchmark import ChatItem, Item, Split
from evaluators.benchmarks.final_answer import AnswerBenchmark
from evaluators.errors import DataError
from evaluators.prompt_formats import METAMATH
from evaluators.protocol import Decoding, Protocol, prompt_text
from evaluators.rows import HubSplit, read_rows
from evaluators.split import is_validation

_CALCULATION = re.compile(r"<<.*?>>")
FIELDS = {"question": str, "answer": str}
VALIDATION = "train file: the questions whose hash is in the first 5 %; test file: every row"
# The released code stops at these words wherever they stand.
METAMATH_STOPS = ("Question", "USER", "ASSISTANT", "Instruction", "Response")
PLAIN = Protocol(
    version="gsm8k-1",
    validation=VALIDATION,
    prompt="Question: {question}\nAnswer:",
    decoding=Decoding(512, ("\nQuestion:",)),
    extraction="number_after_marker",
    equality="normalised",
)
FEW_SHOT = Protocol(
    version="gsm8k-cot-8-shot-2",
    validation=VALIDATION,
    prompt=prompt_text("gsm8k_cot_8_shot.txt") + "Question: {question}\nAnswer:",
    shots=8,
    decoding=Decoding(512, ("\nQuestion:",)),
    extraction="last_number",
    equality="bare_text",
    robust=True,
)
PROTOCOLS = {
    "plain": PLAIN,
    "table1": Protocol(
        version="gsm8k-metamath-3",
        validation=VALIDATION,
        prompt=METAMATH.replace("{}", "{question}"),
        decoding=Decoding(512, METAMATH_STOPS),
        extraction="metamath_number",
        equality="normalised",
        robust=True,
    ),
    "table2": replace(
        FEW_SHOT,
        version="gsm8k-open-instruct-200-2",
        decoding=Decoding(512, ("\n",)),  # as released: a solution of several lines is cut
        subset=200,
    ),
    "table2_chat": replace(
        FEW_SHOT,
        version="gsm8k-open-instruct-chat-200-1",
        prompt=prompt_text("gsm8k_cot_8_shot.txt") + "Question: {question}",
        prompt_format="tulu",
        opening="Answer:",
        decoding=Decoding(512),  # the model says when it has ended
        subset=200,
    ),
    "full": FEW_SHOT,
}
HUB: Mapping[Split, HubSplit] = {
    "validation": HubSplit("train", ("main",)),
    "test": HubSplit("test", ("main",)),
    "all": HubSplit("test", ("main",)),
}


def metamath_prompt(question: str) -> str:
    """MetaMath's prompt, in training and in evaluation."""
    return METAMATH.replace("{}", question.strip())


def reference_solution(answer: str) -> str:
    """The released solution without calculator marks, ending in "The answer is: N"."""
    solution, _, gold = answer.partition("####")
    return f" {_CALCULATION.sub('', solution).strip()}\n{MARKER} {gold.strip()}"


def prompt_and_reference(row: Mapping[str, str]) -> tuple[str, str]:
    """A released row as the prompt and the response to train on or to price."""
    prompt = PLAIN.prompt.format(question=row["question"].strip())
    return prompt, reference_solution(row["answer"])


@final
class GSM8K(AnswerBenchmark):
    """Accuracy of the final number."""

    name = "gsm8k"
    splits_are_files = True

    def load(self, path: Path, split: Split) -> list[Item]:
        """Validation: the held-out questions of the training file. Test, all: every row."""
        items = []
        for line, row in read_rows(path, FIELDS, HUB[split]):
            if not row["answer"].partition("####")[2].strip():
                raise DataError.at(path, line, "'answer' with '#### N'", repr(row["answer"])[-40:])
            if split != "validation" or is_validation(row["question"]):
                items.append(self._item(line, row))
        drawn = self.rules.subset
        if split == "validation" or drawn is None or len(items) <= drawn:
            return items
        # open-instruct's draw: random.seed(42), random.sample(questions, 200)
        return random.Random(42).sample(items, drawn)

    def _item(self, line: int, row: Mapping[str, str]) -> Item:
        reference = reference_solution(row["answer"])
        if self.rules.shots:
            reference = _in_one_line(reference)
        elif self.rules.version == PROTOCOLS["table1"].version:
            reference = _without_commas(reference)
        question = row["question"].strip()
        chat = ChatItem(opening=self.rules.opening)
        return Item(
            id=f"gsm8k/{line}",
            prompt=self.rules.prompt.replace("{question}", question),
            reference=reference,
            answer=row["answer"].partition("####")[2].strip(),
            chat=chat if self.rules.shots else ChatItem(question),
        )


def _in_one_line(reference: str) -> str:
    """A solution as the demonstrations have it."""
    solution, _, gold = reference.rpartition(f"\n{MARKER} ")
    return f" {' '.join(solution.split())} So the answer is {gold}."


def _without_commas(reference: str) -> str:
    """A solution whose last number MetaMath's rule reads whole: it takes one comma at most."""
    solution, _, gold = reference.rpartition(f"\n{MARKER} ")
    return f"{solution}\n{MARKER} {gold.replace(',', '')}"
