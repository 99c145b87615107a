"""Which examples are held out for validation: a pure function of their text."""

from __future__ import annotations

import hashlib


def is_validation(text: str, fraction: float = 0.05) -> bool:
    """Whether `text` belongs to the validation part, `fraction` of all texts on average.

    A hash rather than a position decides, so training and evaluation agree without sharing state,
    and a file that grows or is reordered moves no example from one part to the other.
    """
    digest = hashlib.sha256(text.strip().encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < fraction
