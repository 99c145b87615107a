"""MetaMathQA (Yu et al. 2023, arXiv 2309.12284): {query, response}, in MetaMath's own prompt.

A query is a rewriting of a GSM8K or MATH training problem, `original_question`. That one decides
the split, so that no rewriting of a validation question is trained on.
"""

from __future__ import annotations

from collections.abc import Iterator

from evaluators.benchmarks.gsm8k import metamath_prompt
from sweeps.finetune.example import Example, Row, Turn
from sweeps.finetune.training_sets.training_set import Home, TrainingSet


def read(row: Row) -> Iterator[Example]:
    """One example."""
    query, response = row.text("query"), row.text("response")
    original = row.text("original_question", default=query)
    turns = (Turn("user", query),)
    yield Example(metamath_prompt(query), f" {response.strip()}", original, turns=turns)


TRAINING_SET = TrainingSet(read, Home("meta-math/MetaMathQA"))
