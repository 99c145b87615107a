from __future__ import annotations

import pytest

from evaluators.answers import (
    extract_answer,
    extract_number,
    f1,
    normalise_answer,
    same_answer,
)


@pytest.mark.parametrize(
    ("text", "answer", "number"),
    [
        ("6 + 4 = 10. The answer is: 10", "10", "10"),
        ("The answer is: 3\nThe answer is: 4.", "4", "4"),
        ("The answer is: $1,250.50 per day\nmore", "$1,250.50 per day", "$1,250.50"),
        ("The answer is: -3/4", "-3/4", "-3/4"),
        ("The answer is: red", "red", None),
        ("The answer is:  ", None, None),
        ("10", None, None),
        ("", None, None),
    ],
)
def test_extraction(text, answer, number):
    assert extract_answer(text) == answer
    assert extract_number(text) == number


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("1,000", "1000.0", True),
        ("$18", "18", True),
        ("+5.", "5", True),
        ("6/4", "1.5", True),
        (".50", "1/2", True),
        ("1/0", "1/0", True),
        ("007", "7", True),
        ("12", "21", False),
        ("Red", "red", False),
        ("New  York", "New York", True),
        (None, "1", False),
    ],
)
def test_equality_after_normalisation(left, right, same):
    assert same_answer(left, right) is same


def test_normalised_numbers_are_exact():
    assert normalise_answer("0.1") == "1/10"
    assert normalise_answer("1" * 40) == "1" * 40
    assert normalise_answer("1" * 5000) == "1" * 5000  # more than Python reads


def test_f1_is_squads():
    assert f1("The Cat.", "cat") == 1.0
    assert f1("a big dog", "big cat") == 0.5
    assert f1("", "cat") == 0.0
    assert f1("the", "a") == 1.0
