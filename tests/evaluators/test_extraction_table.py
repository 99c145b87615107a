"""Outputs as models write them, with the verdict of the papers' rules and of the robust one.

Columns: output, gold answer, then whether the rule finds the gold answer there: MetaMath's rule
for GSM8K (table 1), open-instruct's (table 2), the robust rule. A paper's rule that errs is kept
as it is: it says how the tables were scored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from evaluators.answers import (
    EQUALITIES,
    last_number,
    metamath_latex,
    metamath_number,
    minerva_sentence,
)
from evaluators.math_equality import MathVerifier, same_mathematics
from evaluators.robust_answer import robust_answer
from tests.evaluators.answer_table import HELD_OUT, ROWS

YES, NO = True, False
NUMBERS = [
    # plain
    ("6 + 4 = 10.\nThe answer is: 10", "10", YES, YES, YES),
    ("6 + 4 = 10. The answer is: 10.", "10", YES, YES, YES),
    ("She has 10 left. So the answer is 10.", "10", NO, YES, YES),
    ("#### 10", "10", NO, YES, YES),
    ("It is 10", "10", NO, YES, YES),
    ("The answer is 10", "10", NO, YES, YES),
    ("The answer is:10", "10", NO, YES, YES),
    ("**Answer:** 10", "10", NO, YES, YES),
    ("The final answer is $\\boxed{10}$.", "10", NO, YES, YES),
    ("THE ANSWER IS 10", "10", NO, YES, YES),
    # wrong
    ("The answer is: 11", "10", NO, NO, NO),
    ("The answer is: 100", "10", NO, NO, NO),
    ("The answer is: 01", "10", NO, NO, NO),
    # negative
    ("The answer is: -5", "-5", YES, YES, YES),
    ("The answer is: -5", "5", NO, YES, NO),
    ("It fell to -5 degrees. The answer is: -5 degrees", "-5", YES, YES, YES),
    ("The answer is: \u22125", "-5", NO, YES, YES),
    # decimals
    ("The answer is: 18.0", "18", YES, NO, YES),
    ("The answer is: 18.00 dollars", "18", YES, NO, YES),
    ("The answer is: 17.6", "18", YES, NO, NO),
    ("The answer is: 1.8", "18", NO, YES, NO),
    ("The answer is: .5", "1", NO, NO, NO),
    # thousands
    ("The answer is: 1,250", "1250", YES, YES, YES),
    ("The answer is: 1250", "1,250", YES, YES, YES),
    ("The answer is: $1,450,000", "1450000", NO, YES, YES),
    ("The answer is: 1 450", "1450", NO, NO, YES),
    # money, units, words
    ("The answer is: $18", "18", YES, YES, YES),
    ("The answer is: 18 dollars", "18", YES, YES, YES),
    ("The answer is: 18 dollars per day.", "18", YES, YES, YES),
    ("The answer is: 18%", "18", YES, YES, YES),
    ("Janet makes 18 dollars.", "18", NO, YES, YES),
    ("So she makes $18 every day at the market.", "18", NO, YES, YES),
    # several numbers
    ("The answer is: 3\nThe answer is: 4", "4", YES, YES, YES),
    ("The answer is: 3\nThe answer is: 4", "3", NO, NO, NO),
    ("The answer is: 4 boxes of 12", "4", YES, NO, NO),
    ("The answer is: 10. That is 5 each.", "10", YES, NO, YES),
    ("First 3, then 4, at last 7", "7", NO, YES, YES),
    ("The answer is: x = 7", "7", YES, YES, YES),
    # fractions
    ("The answer is: 1/2", "0", YES, NO, NO),
    ("The answer is: 6/3", "2", YES, NO, YES),
    ("The answer is: 5/0", "5", YES, NO, NO),
    # no answer
    ("", "10", NO, NO, NO),
    ("I do not know.", "10", NO, NO, NO),
    ("The answer is: ", "10", NO, NO, NO),
    ("The answer is: ten", "10", NO, NO, NO),
    ("Let's think step by step. There are many", "10", NO, NO, NO),
]
# output, gold, MetaMath's rule for MATH (table 1), Minerva's with math-verify (full), robust
LATEX = [
    ("The answer is: \\frac{1}{2}", "\\frac{1}{2}", YES, NO, YES),
    ("The answer is: $\\frac{1}{2}$.", "\\frac{1}{2}", NO, NO, YES),
    ("The answer is: \\dfrac{1}{2}", "\\frac{1}{2}", YES, NO, YES),
    ("The answer is: 1/2", "\\frac{1}{2}", YES, NO, YES),
    ("The answer is: 0.5", "\\frac{1}{2}", YES, NO, YES),
    ("The answer is: 0.25", "\\frac{1}{4}", NO, NO, YES),
    ("The answer is: 2\\sqrt{2}", "\\sqrt{8}", NO, NO, YES),
    ("The answer is: x+1", "1+x", NO, NO, YES),
    ("The answer is: 5 \\text{ cm}", "5", YES, NO, YES),
    ("The answer is: 90^\\circ", "90", YES, NO, YES),
    ("The answer is: (3, \\frac{\\pi}{2})", "\\left( 3, \\frac{\\pi}{2} \\right)", YES, NO, YES),
    ("The answer is: -\\frac{2}{3}", "-\\frac{2}{3}", YES, NO, YES),
    ("Final Answer: The final answer is $[2,5)$. I hope it is correct.", "[2,5)", NO, YES, YES),
    ("Final Answer: The final answer is $4$. I hope it is correct.", "5", NO, NO, NO),
    ("Final Answer: The final answer is $\\sqrt{8}$. I hope it is correct.", "2\\sqrt{2}",
     NO, YES, YES),
    ("so it is $\\boxed{\\frac{3}{4}}$.", "0.75", NO, NO, YES),
    ("so $\\boxed{12}$, no: $\\boxed{13}$.", "13", NO, NO, YES),
    ("so it is $\\boxed{\\frac{3}{4}", "0.75", NO, NO, NO),
    ("The answer is: 1,000", "1000", NO, NO, YES),
    ("The answer is: 50\\%", "50", YES, NO, YES),
    ("", "5", NO, NO, NO),
    ("The answer is: \\text{Evelyn}", "\\text{Evelyn}", YES, NO, YES),
]  # fmt: skip


@pytest.fixture(scope="module")
def verifier():
    with MathVerifier(20.0) as verifier:
        yield verifier


def test_the_table_is_large_enough():
    assert len(NUMBERS) + len(LATEX) >= 60


@pytest.mark.parametrize(("output", "gold", "table1", "table2", "robust"), NUMBERS)
def test_numbers(verifier, output, gold, table1, table2, robust):
    found = metamath_number(output)
    assert (found is not None and EQUALITIES["normalised"](found, gold)) is table1
    found = last_number(output)
    assert (found is not None and EQUALITIES["bare_text"](found, gold)) is table2
    found = robust_answer(output)
    assert (found is not None and verifier.equal(found, gold)) is robust, found


@pytest.mark.parametrize(("output", "gold", "table1", "full", "robust"), LATEX)
def test_latex(verifier, output, gold, table1, full, robust):
    found = metamath_latex(output)
    assert (found is not None and EQUALITIES["latex"](found, gold)) is table1
    found = minerva_sentence(output)
    assert (found is not None and verifier.equal(found, gold)) is full
    found = robust_answer(output)
    assert (found is not None and verifier.equal(found, gold)) is robust, found


# A list where the gold answer is a point: math-verify takes one for the other.
WRONG = [("\\boxed{2, -3}", "(2,-3)")]
Verdicts = Iterable[tuple[str, str, bool]]


def errors(found: list[bool], rows: list[tuple[str, str, bool]]) -> list[tuple[str, str]]:
    return [row[:2] for row, same in zip(rows, found, strict=True) if same is not row[2]]


def test_the_verdicts_of_a_reader():
    rows = ROWS + HELD_OUT
    assert len(ROWS) >= 230 and len(set(rows)) == len(rows)
    found = same_mathematics([(robust_answer(output), gold) for output, gold, _ in rows], 20.0)
    assert errors(found, rows) == WRONG


def harness_finds(output: str, gold: str) -> bool:
    """By lm-eval's gsm8k (flexible-extract) for a number, else by its hendrycks_math."""
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter
    from lm_eval.tasks.hendrycks_math.utils import process_results

    if not re.fullmatch(r"-?[\d.,]+", gold):
        return bool(process_results({"solution": f"\\boxed{{{gold}}}"}, [output])["exact_match"])
    flexible = RegexFilter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)
    (found,) = flexible.apply([[output]], [{}])
    ignored = [",", "\\$", "(?s).*#### ", "\\.$"]
    return bool(
        exact_match_hf_evaluate(
            found, [gold], regexes_to_ignore=ignored, ignore_case=True, ignore_punctuation=False
        )["exact_match"]
    )


def test_other_rules_err_more_often(capsys):
    pytest.importorskip("lm_eval")
    from math_verify import parse, verify

    rows = ROWS + HELD_OUT
    others = {
        "math-verify": [verify(parse(f"${gold}$"), parse(output)) for output, gold, _ in rows],
        "lm-eval": [harness_finds(output, gold) for output, gold, _ in rows],
    }
    rates = {name: len(errors(found, rows)) / len(rows) for name, found in others.items()}
    with capsys.disabled():
        print(f"\nanswers misjudged, of {len(rows)}: ours {len(WRONG) / len(rows):.1%}", rates)
    assert min(rates.values()) > 10 * len(WRONG) / len(rows)
