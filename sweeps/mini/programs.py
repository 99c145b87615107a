"""Code: one-line functions from signature and docstring, split by the returned expression."""

from __future__ import annotations

import random
from dataclasses import dataclass

from sweeps.mini.splits import WORDS, Row

TESTS = 4
_WORDS = WORDS["programs"]


@dataclass(frozen=True)
class Kind:
    """A kind of function; {u} and {v} are arguments, {k} and {j} constants.

    `takes` has one letter per argument: n for a number, s for a list of numbers. `meanings` are
    wordings of one thing; pretraining knows the first only, fine-tuning has to learn the others.
    """

    takes: str
    expression: str
    meanings: list[str]


KINDS = tuple(Kind(**each) for each in _WORDS["kinds"])


@dataclass(frozen=True)
class Function:
    """One function to write."""

    kind: Kind
    name: str
    arguments: tuple[str, ...]
    k: int
    j: int
    wording: int

    def fill(self, template: str) -> str:
        """Put this function's arguments and constants into a template of its kind."""
        return template.format(u=self.arguments[0], v=self.arguments[-1], k=self.k, j=self.j)

    @property
    def plain_meaning(self) -> str:
        """What the function returns, in the words that pretraining knows."""
        return self.fill(self.kind.meanings[0])

    @property
    def expression(self) -> str:
        """What the function returns, in Python."""
        return self.fill(self.kind.expression)

    @property
    def content(self) -> str:
        """What the splits are disjoint by: the expression, whatever the function is called."""
        return f"code {self.expression}"

    @property
    def prompt(self) -> str:
        """Signature and docstring."""
        meaning = self.fill(self.kind.meanings[self.wording])
        signature = f"def {self.name}({', '.join(self.arguments)}):"
        return f'{signature}\n    """Return {meaning}."""\n'

    @property
    def response(self) -> str:
        """The body."""
        return f"    return {self.expression}\n"


def draw(rng: random.Random) -> Function:
    """Draw one function of any split."""
    kind = rng.choice(KINDS)
    pool = _WORDS["lists" if kind.takes == "s" else "numbers"]
    arguments = tuple(rng.sample(pool, len(kind.takes)))
    k, j = rng.sample(range(2, 10), 2)
    (wording,) = rng.choices((0, 1), (1, 2))
    return Function(kind, rng.choice(_WORDS["names"]), arguments, k, j, wording)


def hidden_tests(function: Function, rng: random.Random) -> list[str]:
    """Return assertions whose expected values come from the function's own expression."""
    tests = []
    for trial in range(TESTS):
        arguments: list[object] = []
        for takes in function.kind.takes:
            if takes == "s":
                arguments.append([rng.randint(-20, 20) for _ in range(rng.randint(5, 12))])
            else:
                # The first trial repeats one number, the case in which == and > differ from ===.
                repeated = trial == 0 and arguments
                arguments.append(arguments[0] if repeated else rng.randint(-20, 20))
        names = dict(zip(function.arguments, arguments, strict=True))
        # Our own expression from the table above, never a model's output.
        expected = eval(function.expression, {}, names)
        call = ", ".join(map(repr, arguments))
        tests.append(f"assert {function.name}({call}) == {expected!r}")
    return tests


def solution(function: Function, rng: random.Random) -> Row:
    """Return the fields {reference, tests, entry_point} of an evaluation row."""
    tests = hidden_tests(function, rng)
    return {"reference": function.response, "tests": tests, "entry_point": function.name}
