r"""MATH (Hendrycks et al. 2021, arXiv 2103.03874): competition problems, greedy.

Rows: {"problem", "solution"} as released, with the gold answer in the solution's last \boxed{}.
Protocols: `table1` is MetaMath's (arXiv 2309.12284), zero-shot; `full` has the four
demonstrations of Minerva (Lewkowycz et al. 2022, arXiv 2206.14858) and compares with math-verify.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from evaluators.answers import MARKER
from evaluators.benchmark import ChatItem, Item, Split
from evaluators.benchmarks.final_answer import AnswerBenchmark
from evaluators.benchmarks.gsm8k import METAMATH_STOPS
from evaluators.errors import DataError
from evaluators.latex import last_boxed
from evaluators.prompt_formats import METAMATH
from evaluators.protocol import Decoding, Protocol, prompt_text
from evaluators.rows import HubSplit, read_rows
from evaluators.split import is_validation

FIELDS = {"problem": str, "solution": str}
VALIDATION = "train file: the problems whose hash is in the first 5 %; test file: every row"
PROTOCOLS = {
    "table1": Protocol(
        version="math-metamath-2",
        validation=VALIDATION,
        prompt=METAMATH.replace("{}", "{problem}"),
        decoding=Decoding(2048, METAMATH_STOPS),
        extraction="metamath_latex",
        equality="latex",
        robust=True,
    ),
    "full": Protocol(
        version="math-minerva-4-shot-2",
        validation=VALIDATION,
        prompt=prompt_text("math_minerva_4_shot.txt") + "Problem:\n{problem}\n\nSolution:",
        shots=4,
        decoding=Decoding(1024, ("Problem:",)),
        extraction="minerva_sentence",
        equality="mathematics",
        robust=True,
    ),
}
_SUBJECTS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
)
HUB: Mapping[Split, HubSplit] = {
    "validation": HubSplit("train", _SUBJECTS),
    "test": HubSplit("test", _SUBJECTS),
    "all": HubSplit("test", _SUBJECTS),
}


@final
class CompetitionMath(AnswerBenchmark):
    """Accuracy of the final answer by the protocol's rule, and the robust one beside it."""

    name = "math"
    splits_are_files = True

    def load(self, path: Path, split: Split) -> list[Item]:
        """Validation: the held-out problems of the training file. Test, all: every row."""
        return [
            self._item(path, line, row)
            for line, row in read_rows(path, FIELDS, HUB[split])
            if split != "validation" or is_validation(row["problem"])
        ]

    def _item(self, path: Path, line: int, row: Mapping[str, Any]) -> Item:
        gold = last_boxed(row["solution"])
        if not gold:
            tail = repr(row["solution"])[-40:]
            raise DataError.at(path, line, r"'solution' with a closed \boxed{answer}", tail)
        ending = f"{MARKER} {gold}"
        if self.rules.shots:
            ending = f"Final Answer: The final answer is ${gold}$. I hope it is correct."
        problem = row["problem"].strip()
        return Item(
            id=f"math/{line}",
            prompt=self.rules.prompt.replace("{problem}", problem),
            reference=f" {row['solution'].strip()}\n{ending}",
            answer=gold,
            chat=None if self.rules.shots else ChatItem(problem),
        )
