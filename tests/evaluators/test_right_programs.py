"""Right programs pass: tails that reference harnesses ignore, and every kind of object."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluators.benchmark import Item
from evaluators.benchmarks import build
from evaluators.benchmarks.program import program
from evaluators.benchmarks.program_text import checkers, program_text, read_head
from evaluators.errors import SandboxError
from evaluators.evaluate import evaluate
from evaluators.sandbox import Program, Sandbox, run_programs
from tests.evaluators.benchmark_rows import humaneval, jsonl, pass_at_1
from tests.evaluators.test_benchmarks import Oracle

TAILS = {
    "numpy": "\nimport numpy as np\nassert np.zeros(3).sum() == 0\n",
    "reads its input": "\nif __name__ == '__main__':\n    print(add(int(input())))\n",
    "unittest": """
import unittest
class TestAdd(unittest.TestCase):
    def test(self):
        self.assertEqual(add(1), 1)
if __name__ == "__main__":
    unittest.main()
""",
    "doctest": "\nif __name__ == '__main__':\n    import doctest\n    doctest.testmod()\n",
    "prose": "\n```\nThis adds a number.\n",
    "prints": "\nprint('done', add(2))\n",
}

_PROGRAMS = (Path(__file__).parent / "right_programs.txt").read_text().split("### ")[1:]
INSIDE = {
    name: tuple(text.split("# tests\n", 1))
    for name, _, text in (part.partition("\n") for part in _PROGRAMS)
}


def test_what_stands_after_a_solution_does_not_fail_it(level, tmp_path):
    for preset in ("table1", "full"):
        benchmark = build("humaneval", preset=preset, sandbox=level)
        items = benchmark.load(humaneval(tmp_path), "all")
        for name, tail in TAILS.items():
            grades = benchmark.grade(items, [item.reference + tail for item in items])
            assert [grade.reason for grade in grades] == [""] * len(items), name


def test_own_tests_may_use_any_object(level):
    programs = [Program(source, (tests,), inside=True) for source, tests in INSIDE.values()]
    assert len(programs) >= 40
    found = run_programs(programs, level=level, timeout=2, packages=("numpy",))
    reasons = {name: result.reason for name, result in zip(INSIDE, found, strict=True)}
    assert reasons == dict.fromkeys(INSIDE, "passed")


def test_own_tests_fail_wrong_programs_and_say_where(level):
    cases = {
        ("def f(xs): pass", "a = [2, 1]\nf(a)\nassert a == [1, 2], a"):
            "AssertionError: [2, 1] in 'assert a == [1, 2], a'",
        ("def f(x): raise KeyError(x)", "assert f('k') == 1"):
            "KeyError: 'k' in 'def f(x): raise KeyError(x)'",
        ("def f(x)", "f(1)"): "SyntaxError: expected ':' (<program>, line 1)",
        ("x = 1", "f(1)"): "NameError: name 'f' is not defined in 'f(1)'",
        ("import torch", "f(1)"): "ModuleNotFoundError: No module named 'torch' in 'import torch'",
    }  # fmt: skip
    programs = [Program(source, (tests,), inside=True) for source, tests in cases]
    found = run_programs(programs, level=level, timeout=2, packages=("numpy",))
    assert [result.reason for result in found] == list(cases.values())


def test_built_in_tests_see_numbers_of_numpy_and_values_as_they_are(level):
    source = """
from collections import deque
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
import numpy as np
def f(x): return np.int64(x), np.float32(0.5), np.bool_(True)
def g(x): return [Fraction(x, 3), Decimal(x), deque([x]), date(2024, 1, x), timedelta(x)]
class Own(LookupError): pass
def h(): raise Own('a message')
"""
    tests = (
        "assert f(2) == (2, 0.5, True)",
        "from fractions import Fraction\nfrom collections import deque\n"
        "from datetime import date, timedelta\n"
        "assert g(1) == [Fraction(1, 3), 1, deque([1]), date(2024, 1, 1), timedelta(1)]",
        "try:\n    h()\nexcept LookupError as e:\n    assert str(e) == 'a message'",
    )
    (found,) = run_programs([Program(source, tests)], level=level, packages=("numpy",))
    assert found.reason == "passed"


SAT = "def sat(x):\n    return x * x == 49\n\ndef g():\n    "


@pytest.mark.parametrize("reference", ["return 7\n", ""])
def test_a_checker_of_the_prompt_cannot_be_replaced(level, reference):
    item = Item("a", SAT, reference, tests=("assert sat(g())",))
    cheats = [
        "return 0\nsat = lambda x: True",
        "return 0\ndef sat(x): return True",
        "return 0\nimport builtins\nbuiltins.sat = globals()['sat'] = lambda x: True",
        "class A:\n        __mul__ = __eq__ = lambda a, b: a\n    return A()",
    ]
    texts = ["return 7", "return -7\nx = 3\n", *cheats]
    programs = [program(item, text, inside=True) for text in texts]
    found = run_programs(programs, level=level)
    assert [result.passed for result in found] == [True, True, *[False] * len(cheats)]


def test_what_is_a_checker():
    def found(head: str, test: str) -> set[str]:
        return checkers(read_head(head, "    return 1\n"), [test])

    made = "def make(xs):\n    return list(xs)\n\ndef f(x):\n"
    assert found(made, "assert f(make([1])) == 1") == set()
    assert found(made, "assert make(f(1)) == [1]") == {"make"}
    assert found(f"class Node: pass\n{made}", "assert make(f(1)) == [1]") == set()
    assert found("ok = lambda x: x > 0\n\ndef f(x):\n", "y = f(1)\nassert ok(y)") == {"ok"}
    assert found("def f(x):\n", "assert f(f(1)) == 1") == set()


def test_completions_are_read_in_every_form():
    head = read_head("import math\ndef f(x):\n    # add one\n", "    return x + 1\n")
    whole = "def f(x):\n    return x + 1\n"
    for completion in (
        "    return x + 1\n",
        "    return x + 1\n```\nThat is all.\n```python\nf(3)\n```\n",
        f"```python\n{whole}```\n",
        f"Sure! Here is the code:\n\n```py\n{whole}```\nIt adds one.",
        f"### Solution\n```\n{whole}```",
        "The body is\n```python\n    return x + 1\n```\n",
        whole,
    ):
        names: dict[str, object] = {}
        exec(program_text(head, completion), names)
        assert names["f"](2) == 3 and "math" in names, completion
    assert program_text(read_head("Write f, please.\n", ""), whole) == whole
    assert program_text(head, "no code").startswith(head.text)


def test_limits_come_from_the_benchmark_or_the_user(tmp_path):
    rows = json.loads(pass_at_1(tmp_path).read_text().splitlines()[0])
    data = jsonl(tmp_path / "slow.jsonl", [{**rows, "tests": ["import time\ntime.sleep(1.3)"]}])
    for sandbox, score in (("rlimits", 0.0), (Sandbox("rlimits", timeout=3, packages=()), 1.0)):
        benchmark = build("pass_at_1", sandbox=sandbox)
        items = benchmark.load(data, "test")
        result = evaluate(Oracle(items), benchmark, items)
        reason = "" if score else "timeout by the clock"
        assert (result.score, result.records[0].reason) == (score, reason)
    chosen = build("humaneval", sandbox=Sandbox("rlimits", memory_mb=1024, packages=("yaml",)))
    assert chosen.protocol()["limits"] == {
        "timeout": 5.0, "memory_mb": 1024, "inside": False, "packages": ("yaml",)
    }  # fmt: skip
    with pytest.raises(SandboxError, match="installed here, found 'nmupy'"):
        build("humaneval", sandbox=Sandbox("rlimits", packages=("nmupy",)))
    with pytest.raises(ValueError, match=r"timeout: expected 0\.1 to 3600 seconds, found 0"):
        Sandbox("rlimits", timeout=0)
    with pytest.raises(ValueError, match="memory_mb: expected 64"):
        Sandbox("rlimits", memory_mb=1)


def test_only_the_packages_chosen_can_be_imported(level):
    texts = [
        "import yaml\nassert yaml.safe_load('a: 1') == {'a': 1}",
        "import numpy",
        "import torch",
    ]
    found = run_programs(texts, level=level, packages=("yaml",), timeout=2)
    assert [result.passed for result in found] == [True, False, False]
