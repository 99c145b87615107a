"""Finding the final answer in a completion, and comparing answers."""

from __future__ import annotations

import re
import string
from collections import Counter
from fractions import Fraction

MARKER = "The answer is:"
_NUMBER = re.compile(r"[-+]?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def extract_answer(text: str, marker: str = MARKER) -> str | None:
    """The rest of the line after the last `marker`, without the final full stop; else None."""
    _, found, after = text.rpartition(marker)
    line = after.strip().split("\n", 1)[0].strip().removesuffix(".").rstrip()
    return line if found and line else None


def extract_number(text: str, marker: str = MARKER) -> str | None:
    """The first number after the last `marker`, as written; None where there is none."""
    answer = extract_answer(text, marker)
    match = _NUMBER.search(answer) if answer is not None else None
    return match.group() if match else None


def normalise_answer(text: str) -> str:
    """A form in which equal answers are equal strings: 1,000.0 and $1000 both give 1000.

    Text that is not a number only has its white space collapsed.
    """
    plain = text.strip().removesuffix(".")
    if _NUMBER.fullmatch(plain):
        numerator, _, denominator = plain.replace("$", "").replace(",", "").partition("/")
        if int(denominator or 1) != 0:
            return str(Fraction(numerator) / int(denominator or 1))
    return " ".join(plain.split())


def same_answer(extracted: str | None, gold: str) -> bool:
    """Whether an extracted answer equals the gold one after normalisation."""
    return extracted is not None and normalise_answer(extracted) == normalise_answer(gold)


def f1(prediction: str, reference: str) -> float:
    """Token F1 of two short answers in [0, 1], as in SQuAD (Rajpurkar et al. 2016)."""
    predicted, expected = _squad_tokens(prediction), _squad_tokens(reference)
    if not predicted or not expected:
        return float(predicted == expected)
    common = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * common / (len(predicted) + len(expected))


def _squad_tokens(text: str) -> list[str]:
    """Lower-cased words without punctuation and English articles."""
    bare = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return _ARTICLES.sub(" ", bare).split()
