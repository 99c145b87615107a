"""Code: one-line functions from signature and docstring, split by the returned expression."""

from __future__ import annotations

import random
from dataclasses import dataclass

from sweeps.mini.splits import Row

NAMES = ("solve", "compute", "work", "task", "helper", "calc")
NUMBERS = ("a", "b", "c", "m", "n", "p", "x", "y")
LISTS = ("s", "t", "xs", "items", "data", "values")
TESTS = 4


@dataclass(frozen=True)
class Kind:
    """A kind of function; {u} and {v} are arguments, {k} and {j} constants.

    `takes` has one letter per argument: n for a number, s for a list of numbers. `meanings` are
    wordings of one thing; pretraining knows the first only, fine-tuning has to learn the others.
    """

    takes: str
    expression: str
    meanings: tuple[str, ...]


KINDS = (
    Kind("nn", "{u} + {v}", ("{u} plus {v}", "{u} increased by {v}")),
    Kind("nn", "{u} - {v}", ("{u} minus {v}", "what {u} has over {v}")),
    Kind("nn", "{u} * {v}", ("{u} times {v}", "the product of {u} and {v}")),
    Kind("nn", "max({u}, {v})", ("the larger of {u} and {v}", "{u}, but at least {v}")),
    Kind("nn", "min({u}, {v})", ("the smaller of {u} and {v}", "{u}, but at most {v}")),
    Kind("nn", "{u} > {v}", ("whether {u} is above {v}", "whether {u} beats {v}")),
    Kind("nn", "{u} == {v}", ("whether {u} equals {v}", "whether {u} and {v} agree")),
    Kind(
        "nn", "({u} + {v}) * {k}", ("{u} plus {v}, times {k}", "{k} times what {u} and {v} make")
    ),
    Kind("nn", "{u} * {v} - {k}", ("{u} times {v}, minus {k}", "{k} less than {u} times {v}")),
    Kind("n", "{u} + {k}", ("{u} plus {k}", "{u} increased by {k}")),
    Kind("n", "{u} - {k}", ("{u} minus {k}", "{u} decreased by {k}")),
    Kind("n", "{u} * {k}", ("{u} times {k}", "{k} copies of {u}")),
    Kind("n", "{u} % {k}", ("the remainder of {u} by {k}", "{u} modulo {k}")),
    Kind("n", "{u} > {k}", ("whether {u} is above {k}", "whether {u} beats {k}")),
    Kind("n", "{u} * {k} + {j}", ("{u} times {k}, plus {j}", "{j} more than {u} times {k}")),
    Kind("n", "{u} ** {k}", ("{u} to the power {k}", "{u} raised to {k}")),
    Kind("s", "len({u})", ("the length of {u}", "how many items {u} has")),
    Kind("s", "sum({u})", ("the sum of {u}", "all items of {u} together")),
    Kind("s", "max({u})", ("the largest of {u}", "the top of {u}")),
    Kind("s", "{u}[-1]", ("the last item of {u}", "the end of {u}")),
    Kind("s", "{u}[::-1]", ("{u} reversed", "{u} from end to start")),
    Kind("s", "sorted({u})", ("{u} sorted", "{u} in order")),
    Kind("s", "{u}[:{k}]", ("the first {k} items of {u}", "the start of {u}, {k} items")),
    Kind("s", "sum({u}) + {k}", ("the sum of {u}, plus {k}", "{k} more than the sum of {u}")),
    Kind("s", "len({u}) * {k}", ("the length of {u}, times {k}", "{k} times the length of {u}")),
)


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
    pool = LISTS if kind.takes == "s" else NUMBERS
    arguments = tuple(rng.sample(pool, len(kind.takes)))
    k, j = rng.sample(range(2, 10), 2)
    (wording,) = rng.choices((0, 1), (1, 2))
    return Function(kind, rng.choice(NAMES), arguments, k, j, wording)


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
