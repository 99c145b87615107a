"""LaTeX answers of MATH: the boxed part, and the released code's form of equal answers.

Hendrycks et al. 2021 (arXiv 2103.03874) compare strings after a fixed list of clean-ups; MetaMath
(arXiv 2309.12284) scores with the same list. The rules are theirs, blind spots included.
"""

from __future__ import annotations

import re

_DROPPED = ("\n", "\\!", "\\left", "\\right", "^{\\circ}", "^\\circ", "\\$", "\\%")
_BOX = re.compile(r"\\(?:boxed|fbox)\{")
_FRACTION = re.compile(r"\\frac([^{])(.)", re.DOTALL)
_ROOT = re.compile(r"\\sqrt([^{])", re.DOTALL)


def last_boxed(text: str) -> str | None:
    r"""What the last \boxed{...} or \fbox{...} of `text` holds; None without a closed one."""
    starts = list(_BOX.finditer(text))
    end = _closing(text, starts[-1].end()) if starts else None
    return None if end is None else text[starts[-1].end() : end].strip()


def boxes(text: str) -> list[tuple[int, int, str]]:
    """(start, end, content) of each closed box."""
    found = []
    for match in _BOX.finditer(text):
        end = _closing(text, match.end())
        if end is not None:
            found.append((match.start(), end + 1, text[match.end() : end].strip()))
    return found


def _closing(text: str, start: int) -> int | None:
    """Where the brace closes that was opened before `start`."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return None


def same_latex(left: str, right: str) -> bool:
    """Whether two answers are equal by the released code of MATH.

    Where its clean-up cannot read one of them, the texts themselves must be equal.
    """
    try:
        return normalise_latex(left) == normalise_latex(right)
    except ValueError:
        return left == right


def normalise_latex(text: str) -> str:
    """The form in which the released code compares; ValueError where it gives up."""
    text = text.replace("\\\\", "\\").replace("tfrac", "frac").replace("dfrac", "frac")
    for dropped in _DROPPED:
        text = text.replace(dropped, "")
    text = _without_unit(text).replace(" .", " 0.").replace("{.", "{0.")
    if text.startswith("."):
        text = f"0{text}"
    name, equals, value = text.partition("=")
    if equals and "=" not in value and len(name) <= 2:
        text = value
    text = _ROOT.sub(r"\\sqrt{\1}", text).replace(" ", "")
    text = _FRACTION.sub(_braced, text)
    return _as_fraction("\\frac{1}{2}" if text == "0.5" else text)


def _without_unit(text: str) -> str:
    r"""`text` before its unit, which MATH writes as \text{ with a leading space."""
    number, *units = text.split("\\text{ ")
    if len(units) > 1:
        raise ValueError(f"expected one unit, found {len(units)} in {text!r}")
    return number


def _braced(match: re.Match[str]) -> str:
    top, bottom = match.groups()
    return f"\\frac{{{top}}}" + ("{" if bottom == "{" else f"{{{bottom}}}")


def _as_fraction(text: str) -> str:
    r"""a/b as \frac{a}{b} for integers; ValueError where a single slash divides other things."""
    parts = text.split("/")
    if len(parts) != 2:
        return text
    top, bottom = (int(part) for part in parts)
    return f"\\frac{{{top}}}{{{bottom}}}" if text == f"{top}/{bottom}" else text
