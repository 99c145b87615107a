"""MATH (Hendrycks et al. 2021): {problem, solution}, as the benchmark `math` asks."""

from __future__ import annotations

from collections.abc import Iterator

from evaluators.answers import MARKER
from evaluators.benchmarks.gsm8k import metamath_prompt
from evaluators.latex import last_boxed
from sweeps.finetune.example import Example, Row, Turn
from sweeps.finetune.training_sets.training_set import Home, TrainingSet


def read(row: Row) -> Iterator[Example]:
    """One example, whose response ends in the benchmark's "The answer is:"."""
    problem, solution = row.text("problem"), row.text("solution")
    gold = last_boxed(solution)
    if gold is None:
        row.fail("a 'solution' with a closed \\boxed{answer}", repr(solution)[-40:])
    response = f" {solution.strip()}\n{MARKER} {gold}"
    yield Example(metamath_prompt(problem), response, problem, turns=(Turn("user", problem),))


TRAINING_SET = TrainingSet(read, Home("DigitalLearningGmbH/MATH-lighteval"))
