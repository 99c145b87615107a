"""Finding the final answer in a completion, and comparing answers.

`EXTRACTIONS` and `EQUALITIES` are the rules that protocols name. Those called after a paper do
what its released code does, mistakes included, so that scores can be compared with its tables.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType

from evaluators.latex import same_latex
from evaluators.robust_answer import robust_answer

MARKER = "The answer is:"
_NUMBER = re.compile(r"[-+]?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?")
_LONGEST = 1000  # signs; Python refuses to read numbers of more than 4,300 digits
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_METAMATH_NUMBER = re.compile(r"[\-+]?\d*[.,/]?\d+")
_LAST_NUMBER = re.compile(r"[-+]?\d*\.\d+|\d+")
_BBH = re.compile(r"So the answer is (.*?)\.")
_BBH_LINE = re.compile(r"so the answer is:? *(.*?)\.?[ \t]*(?:\n|$)", re.IGNORECASE)
_MINERVA = re.compile(r"Final Answer: The final answer is(.*?)\. I hope it is correct", re.DOTALL)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


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


def metamath_number(text: str) -> str | None:
    """MetaMath's rule for GSM8K: the number after the last marker, rounded to an integer."""
    _, found, after = text.rpartition(f"{MARKER} ")
    match = _METAMATH_NUMBER.search(after) if found else None
    if match is None:
        return None
    top, slash, bottom = match.group().replace(",", "").partition("/")
    try:
        value = float(top) / (float(bottom) or 1.0) if slash else float(top)
        return str(round(value))
    except (ValueError, OverflowError):
        return None


def metamath_latex(text: str) -> str | None:
    """MetaMath's rule for MATH: what follows the last marker, up to a stop that ends a line."""
    _, found, after = text.rpartition(f"{MARKER} ")
    answer = after.split(".\n", 1)[0].strip().removesuffix(".").strip()
    return answer if found and answer else None


def last_number(text: str) -> str | None:
    """open-instruct's rule for GSM8K: the last number; a minus sign counts with decimals only."""
    numbers: list[str] = _LAST_NUMBER.findall(re.sub(r"(\d),(\d)", r"\1\2", text))
    return numbers[-1] if numbers else None


def bbh_sentence(text: str) -> str | None:
    """open-instruct's rule for BBH: after the first "So the answer is", else a paragraph."""
    match = _BBH.search(text)
    answer = match.group(1) if match else text.strip().split("\n\n", 1)[0]
    return answer.strip() or None


def bbh_line(text: str) -> str | None:
    """The rest of the line after the first "so the answer is", in any case, else None."""
    match = _BBH_LINE.search(text)
    return (match.group(1).strip() or None) if match else None


def minerva_sentence(text: str) -> str | None:
    """Minerva's rule for MATH (arXiv 2206.14858): "The final answer is X. I hope ..."."""
    match = _MINERVA.search(text)
    return (match.group(1).strip(" $\n") or None) if match else None


def first_line(text: str) -> str | None:
    """The completion's first line."""
    return text.strip().split("\n", 1)[0].strip() or None


def normalise_answer(text: str) -> str:
    """A form in which equal answers are equal strings: 1,000.0 and $1000 both give 1000.

    Text that is not a number only has its white space collapsed.
    """
    plain = text.strip().removesuffix(".")
    if len(plain) < _LONGEST and _NUMBER.fullmatch(plain):
        numerator, _, denominator = plain.replace("$", "").replace(",", "").partition("/")
        if int(denominator or 1) != 0:
            return str(Fraction(numerator) / int(denominator or 1))
    return " ".join(plain.split())


def same_answer(extracted: str | None, gold: str) -> bool:
    """Whether an extracted answer equals the gold one after normalisation."""
    return extracted is not None and normalise_answer(extracted) == normalise_answer(gold)


def same_bare_text(left: str, right: str) -> bool:
    """Equality without case and punctuation, as open-instruct scores."""
    return left.lower().translate(_PUNCTUATION) == right.lower().translate(_PUNCTUATION)


def same_words(left: str, right: str) -> bool:
    """Equality without case and surplus white space; signs count."""
    return left.lower().split() == right.lower().split()


def f1(prediction: str, reference: str) -> float:
    """Token F1 of two short answers in [0, 1], as in SQuAD (Rajpurkar et al. 2016)."""
    predicted, expected = _squad_tokens(prediction), _squad_tokens(reference)
    if not predicted or not expected:
        return float(predicted == expected)
    common = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * common / (len(predicted) + len(expected))


def exact_match(prediction: str, reference: str) -> float:
    """1 where two short answers are equal after SQuAD's normalisation, else 0."""
    return float(_squad_tokens(prediction) == _squad_tokens(reference))


def _squad_tokens(text: str) -> list[str]:
    """Lower-cased words without punctuation and English articles."""
    bare = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return _ARTICLES.sub(" ", bare).split()


EXTRACTIONS: Mapping[str, Callable[[str], str | None]] = MappingProxyType(
    {
        "answer_after_marker": extract_answer,
        "number_after_marker": extract_number,
        "metamath_number": metamath_number,
        "metamath_latex": metamath_latex,
        "last_number": last_number,
        "bbh_sentence": bbh_sentence,
        "bbh_line": bbh_line,
        "minerva_sentence": minerva_sentence,
        "first_line": first_line,
        "robust": robust_answer,
    }
)
EQUALITIES: Mapping[str, Callable[[str, str], bool]] = MappingProxyType(
    {
        "normalised": same_answer,
        "bare_text": same_bare_text,
        "words": same_words,
        "latex": same_latex,
    }
)
