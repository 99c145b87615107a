"""GSM8K (Cobbe et al. 2021): {question, answer}, with the benchmark's prompt and response.

The benchmark validates on training rows whose raw question hashes so; `part: train` leaves out
exactly these.
"""

from __future__ import annotations

from collections.abc import Iterator

from evaluators.benchmarks.gsm8k import prompt_and_reference
from sweeps.finetune.example import Example, Row, Turn
from sweeps.finetune.training_sets.training_set import Home, TrainingSet


def read(row: Row) -> Iterator[Example]:
    """One example."""
    question, answer = row.text("question"), row.text("answer")
    if "####" not in answer:
        row.fail("an 'answer' with '#### N'", repr(answer)[-40:])
    prompt, response = prompt_and_reference({"question": question, "answer": answer})
    yield Example(prompt, response, question, turns=(Turn("user", question),))


TRAINING_SET = TrainingSet(read, Home("openai/gsm8k", "main"))
