r"""The answer of a completion in whatever form, and the forms of numbers.

A box, "the answer is", "####", <answer>, $...$ or a bare number; the last statement wins, since
models correct themselves rather than answer twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from evaluators.latex import boxes

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_MARKED = re.compile(r"####[ \t]*(\S.*)")
_STATED = re.compile(r"(?:final|correct)? ?answer(?: is| ?:)\s*:?", re.IGNORECASE)
_BOLD = re.compile(r"\*\*(?!\d)|(?<!\d)\*\*")  # 2**3 is a power
_OPENING = re.compile(r"^\s*(?:\\\[|\\\(|\$+)")
_CLOSING = re.compile(r"(?:\\\]|\\\)|\$+)\s*$")
_SENTENCE_END = re.compile(r"(?<!\d)\.(?:\s|$)|\.(?=\s+[A-Z]|\s*$)|;\s")
_INDIRECT = re.compile(r"\b(?:which is|it is|so)\b")
_JOINT = re.compile(r"[\s$]*(?:,|,?\s*\b(?:or|and)\b)[\s$]*(?:[a-zA-Z]\w*\s*=\s*)?[\s$]*")
_ALTERNATIVE = re.compile(r"(?<=[\d})])(?:,\s*|\s+)(?:or|and)\s+(?:[a-z]\s*=\s*)?(?=[-\d\\(])")
_MATHEMATICS = re.compile(r"\$[^$\n]+\$|(?<!\{)-?\\[dt]?frac\{[^{}]*\}\{[^{}]*\}")
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(rf"[-+\u2212]?\$?(?:{_DIGITS})(?:\s?/\s?\d+|_\{{?\d+\}}?)?")
_THOUSANDS = re.compile(r"(?<=\d)(?:\\[,!;]|\{,\})(?=\d{3}(?!\d))")
_MIXED = re.compile(r"(?<![\d/.,])(\d{1,9}) (\d{1,9})/(\d{1,9})(?![\d/])")
_LENGTH = r"[mckd]m|in|ft|yd|mi|units?|feet|foot|inch(?:es)?|(?:centi|kilo|milli)?met(?:er|re)s?"
_AREA = re.compile(rf"(?<=\d)(\$? ?(?:{_LENGTH})|\$? m)\s?\^\s?\{{?[23]\}}?(?=[\s.,;)$]|$)")
_WORDS = re.compile(r"\\(?:text|mathrm|mbox|textbf)\{([^{}]*)\}")
_IN_BASE = re.compile(r"\b([0-9A-Z]+)\s*\(?(?:in )?base[ -](\w+)\)?")
_BASE = re.compile(r"\(?([0-9A-Z]+)\)?_\{?(?:\\text\{)?([a-z]+|\d\d?)\}*")
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}


def robust_answer(text: str) -> str | None:
    """The last answer that `text` states after its thinking, else its last number; else None."""
    text = _BOLD.sub("", plain_numbers(text.rpartition("</think>")[2]))
    statements = [*_boxed(text), *_stated(text)]
    for pattern in (_TAGGED, _MARKED):
        statements += [(match.start(), match[1].strip()) for match in pattern.finditer(text)]
    if statements:
        return max(statements)[1]
    candidates = list(_MATHEMATICS.finditer(text)) or list(_NUMBER.finditer(text))
    return candidates[-1].group().strip("$ ") if candidates else None


def plain_numbers(text: str) -> str:
    r"""`text` with numbers as digits: 1\,450 is 1450, \$5 is 5, 2 1/2 is 5/2, 3 cm^2 3 cm."""
    text = _THOUSANDS.sub("", text.replace("\\$", ""))
    text = _IN_BASE.sub(r"\1_\2", _AREA.sub(r"\1", text))
    return _MIXED.sub(_improper, text)


def single_number(text: str) -> str | None:
    """The number in a short answer with words around it, as in "18 dollars"; else None."""
    text = _WORDS.sub(r" \1", text.rpartition("=")[2].replace("**", ""))
    found = list(_NUMBER.finditer(text))
    # A single letter after a number is a variable.
    if len(found) != 1 or re.search(r"[\\^]|\d[a-zA-Z](?![a-zA-Z])", text):
        return None
    return found[0].group().replace("\u2212", "-").replace(" ", "")


def based_number(text: str) -> tuple[str, int] | None:
    """The digits and the base of a number that is written with its base, as 1101_2."""
    match = _BASE.fullmatch(text.strip())
    if match is None:
        return None
    digits, base = match.groups()
    value = int(base) if base.isdecimal() else _BASES.get(base, 0)
    return (digits.lstrip("0"), value) if value else None


def _boxed(text: str) -> Iterator[tuple[int, str]]:
    """(place, content) of boxes; those that a comma, "or" or "and" joins are one list."""
    place, ended, answers = 0, 0, list[str]()
    for start, end, inside in boxes(text):
        if answers and not _JOINT.fullmatch(text[ended:start]):
            yield place, ",".join(answers)
            answers = []
        place, ended = start, end
        if inside and inside not in answers:
            answers.append(inside)
    if answers:
        yield place, ",".join(answers)


def _stated(text: str) -> Iterator[tuple[int, str]]:
    """(place, answer) of sentences that state one: words only where no number follows them."""
    for match in _STATED.finditer(text):
        rest = text[match.end() :]
        answer = _sentence(rest)
        if answer and (re.search(r"[\d\\]", answer) or not re.search(r"\d", rest)):
            yield match.start(), answer


def _sentence(text: str) -> str:
    """The start of `text` up to the end of its first sentence or line, without decoration."""
    line = _OPENING.sub("", text).strip().split("\n", 1)[0]
    line = _INDIRECT.split(_SENTENCE_END.split(line, maxsplit=1)[0])[-1]
    answer = _ALTERNATIVE.sub(",", _CLOSING.sub("", line.strip(" *:,")).strip(" *:,"))
    return re.split(r"(?:^|, )not ", answer, maxsplit=1)[0]


def _improper(match: re.Match[str]) -> str:
    whole, top, bottom = (int(part) for part in match.groups())
    return f"{whole * bottom + top}/{bottom}" if top < bottom else match.group()
