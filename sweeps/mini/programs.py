"""Code: one-line Python functions from a signature and a docstring, split by the returned expression."""

from __future__ import annotations

import random
from dataclasses import dataclass

from sweeps.mini.splits import Row, Split, collect

NAMES = ("solve", "compute", "work", "task", "helper", "calc")
NUMBERS = ("a", "b", "c", "m", "n", "p", "x", "y")
LISTS = ("s", "t", "xs", "items", "data", "values")
TESTS = 4


@dataclass(frozen=True)
class Kind:
    """A kind of function; {u} and {v} are arguments, {k} and {j} constants.

    `takes` has one letter per argument: n for a number, s for a list of numbers.
    """

    takes: str
    meaning: str
    expression: str


KINDS = (
    Kind("nn", "{u} plus {v}", "{u} + {v}"),
    Kind("nn", "{u} minus {v}", "{u} - {v}"),
    Kind("nn", "{u} times {v}", "{u} * {v}"),
    Kind("nn", "the larger of {u} and {v}", "max({u}, {v})"),
    Kind("nn", "the smaller of {u} and {v}", "min({u}, {v})"),
    Kind("nn", "whether {u} is above {v}", "{u} > {v}"),
    Kind("nn", "whether {u} equals {v}", "{u} == {v}"),
    Kind("nn", "{u} plus {v}, times {k}", "({u} + {v}) * {k}"),
    Kind("nn", "{u} times {v}, minus {k}", "{u} * {v} - {k}"),
    Kind("n", "{u} plus {k}", "{u} + {k}"),
    Kind("n", "{u} minus {k}", "{u} - {k}"),
    Kind("n", "{u} times {k}", "{u} * {k}"),
    Kind("n", "the remainder of {u} by {k}", "{u} % {k}"),
    Kind("n", "whether {u} is above {k}", "{u} > {k}"),
    Kind("n", "{u} times {k}, plus {j}", "{u} * {k} + {j}"),
    Kind("n", "{u} to the power {k}", "{u} ** {k}"),
    Kind("s", "the length of {u}", "len({u})"),
    Kind("s", "the sum of {u}", "sum({u})"),
    Kind("s", "the largest of {u}", "max({u})"),
    Kind("s", "the last item of {u}", "{u}[-1]"),
    Kind("s", "{u} reversed", "{u}[::-1]"),
    Kind("s", "{u} sorted", "sorted({u})"),
    Kind("s", "the first {k} items of {u}", "{u}[:{k}]"),
    Kind("s", "the sum of {u}, plus {k}", "sum({u}) + {k}"),
    Kind("s", "the length of {u}, times {k}", "len({u}) * {k}"),
)


@dataclass(frozen=True)
class Function:
    """One function to write."""

    kind: Kind
    name: str
    arguments: tuple[str, ...]
    k: int
    j: int

    def fill(self, template: str) -> str:
        """Put this function's arguments and constants into a template of its kind."""
        return template.format(u=self.arguments[0], v=self.arguments[-1], k=self.k, j=self.j)

    @property
    def meaning(self) -> str:
        """What the function returns, in words."""
        return self.fill(self.kind.meaning)

    @property
    def expression(self) -> str:
        """What the function returns, in Python."""
        return self.fill(self.kind.expression)

    @property
    def content(self) -> str:
        """What the splits are disjoint by: the expression, whatever the function is called."""
        return f"code {self.expression}"


def draw(rng: random.Random) -> Function:
    """Draw one function of any split."""
    kind = rng.choice(KINDS)
    pool = LISTS if kind.takes == "s" else NUMBERS
    arguments = tuple(rng.sample(pool, len(kind.takes)))
    k, j = rng.sample(range(2, 10), 2)
    return Function(kind, rng.choice(NAMES), arguments, k, j)


def prompt(function: Function) -> str:
    """Return signature and docstring."""
    signature = f"def {function.name}({', '.join(function.arguments)}):"
    return f'{signature}\n    """Return {function.meaning}."""\n'


def response(function: Function) -> str:
    """Return the body."""
    return f"    return {function.expression}\n"


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


def train(count: int, seed: int) -> list[Row]:
    """Return `count` training rows {prompt, response}."""
    functions = collect(draw, lambda f: f.content, prompt, "train", count, seed)
    return [{"prompt": prompt(f), "response": response(f)} for f in functions]


def items(split: Split, count: int, seed: int) -> list[Row]:
    """Return `count` evaluation rows {id, prompt, reference, tests, entry_point}."""
    functions = collect(draw, lambda f: f.content, prompt, split, count, seed)
    rng = random.Random(f"{seed}/{split}/tests")
    return [
        {
            "id": f"code-{split}-{index:03d}",
            "prompt": prompt(f),
            "reference": response(f),
            "tests": hidden_tests(f, rng),
            "entry_point": f.name,
        }
        for index, f in enumerate(functions)
    ]
