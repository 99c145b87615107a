"""MATH (Hendrycks et al. 2021): {problem, solution}, in the prompt of MetaMath."""

from __future__ import annotations

from collections.abc import Iterator

from evaluators.benchmarks.gsm8k import metamath_prompt
from sweeps.finetune.example import Example
from sweeps.finetune.rows import Row
from sweeps.finetune.training_sets.training_set import Home, TrainingSet


def read(row: Row) -> Iterator[Example]:
    """One example."""
    problem, solution = row.text("problem"), row.text("solution")
    prompt = metamath_prompt(problem)
    yield Example(prompt, f" {solution.strip()}", problem, turns=(("user", problem),))


TRAINING_SET = TrainingSet(read, Home("DigitalLearningGmbH/MATH-lighteval"))
