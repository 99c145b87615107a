"""Math: word problems of one or two steps with small numbers, split by the numbers asked about."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from sweeps.mini.splits import WORDS, Row

Operation = Literal["add", "subtract", "multiply", "add_subtract"]

SIGNS = {"add": "+", "subtract": "-", "multiply": "*"}
_WORDS = WORDS["arithmetic"]
_WEIGHTS: dict[Operation, int] = {"add": 30, "subtract": 30, "multiply": 20, "add_subtract": 20}


@dataclass(frozen=True)
class Problem:
    """A word problem; `c` is 0 unless the operation has two steps."""

    operation: Operation
    a: int
    b: int
    c: int
    name: str
    thing: str
    wording: int

    @property
    def answer(self) -> int:
        """The number asked for."""
        if self.operation == "multiply":
            return self.a * self.b
        return self.a - self.b if self.operation == "subtract" else self.a + self.b - self.c

    @property
    def content(self) -> str:
        """What the splits are disjoint by: operation and numbers, not their story."""
        return f"math {self.operation} {self.a} {self.b} {self.c}"

    @property
    def prompt(self) -> str:
        """The question as the model sees it."""
        story = _WORDS["stories"][self.operation][self.wording].format(**vars(self))
        return f"Question: {story}\nAnswer:"

    @property
    def response(self) -> str:
        """The worked solution, which ends in the answer."""
        a, b, c = self.a, self.b, self.c
        if self.operation == "add_subtract":
            steps = f" {a} + {b} = {a + b}. {a + b} - {c} = {self.answer}."
        else:
            steps = f" {a} {SIGNS[self.operation]} {b} = {self.answer}."
        return f"{steps} The answer is: {self.answer}"


def numbers(operation: Operation, rng: random.Random) -> tuple[int, int, int]:
    """Draw operands whose results stay within 0..25."""
    if operation == "add":
        return rng.randint(1, 12), rng.randint(1, 12), 0
    if operation == "subtract":
        a = rng.randint(3, 20)
        return a, rng.randint(1, min(a, 12)), 0
    if operation == "multiply":
        a = rng.randint(2, 9)
        return a, rng.randint(2, 25 // a), 0
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    return a, b, rng.randint(1, min(a + b, 9))


def draw(rng: random.Random) -> Problem:
    """Draw one problem of any split."""
    (operation,) = rng.choices(tuple(_WEIGHTS), tuple(_WEIGHTS.values()))
    a, b, c = numbers(operation, rng)
    wording = rng.randrange(len(_WORDS["stories"][operation]))
    return Problem(
        operation, a, b, c, rng.choice(_WORDS["names"]), rng.choice(_WORDS["things"]), wording
    )


def solution(problem: Problem, _: random.Random) -> Row:
    """Return the fields {reference, answer} of an evaluation row."""
    return {"reference": problem.response, "answer": str(problem.answer)}
