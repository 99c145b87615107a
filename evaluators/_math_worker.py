"""Compares mathematical answers with math-verify. Started by `math_equality`, never imported.

Reads one JSON pair [answer, gold] per line and writes true or false. A process of its own, since
math-verify's own time limit uses a signal that only a main thread may set, and since sympy can
take for ever, or all memory, over a line of text.
"""

from __future__ import annotations

import json
import logging
import re
import resource
import sys

MEMORY = 4 * 2**30
DIGITS = 500  # math-verify takes differences below 10^-DIGITS for zero

DECIMAL = re.compile(r"(?<![\d.])((?:\d{1,3}(?:,\d{3})+|\d*))\.(\d+)(?![\d.])")


def fraction(decimal: re.Match[str]) -> str:
    """A decimal as a fraction: math-verify compares floats only to six places."""
    whole, part = decimal.groups()
    return f"{{\\frac{{{whole.replace(',', '')}{part}}}{{1{'0' * len(part)}}}}}"


def main() -> None:
    """Answer the pairs on stdin until it closes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.CRITICAL)
    # What is printed by a parser on standard output must not pass for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    from math_verify import LatexExtractionConfig, parse, verify

    rules = [LatexExtractionConfig(boxed_match_priority=0)]

    def parsed(text: str) -> list[object]:
        boxed = f"\\boxed{{{DECIMAL.sub(fraction, text)}}}"
        found: list[object] = parse(boxed, extraction_config=rules, parsing_timeout=None)
        return found

    def equal(answer: str, gold: str) -> bool:
        try:
            pair = parsed(gold), parsed(answer)
            return bool(verify(*pair, numeric_precision=DIGITS, timeout_seconds=None))
        except (Exception, RecursionError):
            return False

    equal("1", "2")  # builds the parsers, so that the first answer pays for none of it
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(equal(*json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
