"""Numbers that a user gave: checked, with what was expected in the error."""

from __future__ import annotations

import math
from numbers import Integral, Real


def checked_ratio(what: str, found: object) -> float:
    """As a float; raises ValueError unless it is a number in [0, 1)."""
    ratio = math.nan if isinstance(found, bool) or not isinstance(found, Real) else float(found)
    if not 0.0 <= ratio < 1.0:
        raise ValueError(f"{what}: expected a number in [0, 1), found {found!r}")
    return ratio


def checked_count(what: str, found: object, expected: str) -> int:
    """As an int; raises ValueError unless it is a whole number that is not negative."""
    if isinstance(found, bool) or not isinstance(found, Integral) or found < 0:
        raise ValueError(f"{what}: expected {expected}, found {found!r}")
    return int(found)


def checked_seed(found: object) -> int:
    """As an int; raises ValueError unless it is a whole number."""
    if isinstance(found, bool) or not isinstance(found, Integral):
        raise ValueError(f"seed: expected a whole number, found {found!r}")
    return int(found)
