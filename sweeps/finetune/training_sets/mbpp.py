"""MBPP (Austin et al. 2021): {text, code, test_list}, with the benchmark's prompt and response.

Official split by `task_id`: 601 to 974 train, all others are evaluated on.
"""

from __future__ import annotations

from collections.abc import Iterator

from evaluators.benchmarks.mbpp import prompt_and_reference
from sweeps.finetune.example import Example, Row, Turn
from sweeps.finetune.training_sets.training_set import Home, TrainingSet

TRAIN_IDS = range(601, 975)


def read(row: Row) -> Iterator[Example]:
    """One example."""
    text, code, tests = row.text("text"), row.text("code"), row.fields.get("test_list")
    if not isinstance(tests, list) or not tests or not all(isinstance(t, str) for t in tests):
        row.fail("a non-empty list of strings 'test_list'", f"{tests!r:.60}")
    prompt, response = prompt_and_reference({"text": text, "code": code, "test_list": tests})
    number = row.fields.get("task_id")
    part = None if number is None else "train" if number in TRAIN_IDS else "evaluation"
    yield Example(prompt, response, text, part, turns=(Turn("user", f"{text}\n{tests[0]}"),))


TRAINING_SET = TrainingSet(read, Home("google-research-datasets/mbpp", "full"))
