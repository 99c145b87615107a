"""Compares mathematical answers with math-verify. Started by `math_equality`, never imported.

Reads one JSON pair [answer, gold] per line and writes true or false. A process of its own, since
math-verify's own time limit uses a signal that only a main thread may set, and since sympy can
take for ever, or all memory, over a line of text.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
from typing import Any

MEMORY = 4 * 2**30
DIGITS = 500  # math-verify takes differences below 10^-DIGITS for zero


def main() -> None:
    """Answer the pairs on stdin until it closes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.CRITICAL)
    # What is printed by a parser on standard output must not pass for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Float, Rational

    rules = [LatexExtractionConfig(boxed_match_priority=0)]

    def exact(found: Any) -> Any:
        """Decimals as rationals, which math-verify compares exactly; texts as they are."""
        if not hasattr(found, "xreplace"):
            return found
        return found.xreplace({each: Rational(str(each)) for each in found.atoms(Float)})

    def parsed(text: str) -> list[Any]:
        found = parse(f"\\boxed{{{text}}}", extraction_config=rules, parsing_timeout=None)
        return [exact(each) for each in found]

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
