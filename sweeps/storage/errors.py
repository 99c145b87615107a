"""The user's mistakes, and the nearest valid spelling of a name."""

from __future__ import annotations

from difflib import get_close_matches


class UserError(ValueError):
    """A mistake in the user's input. The command line prints it and exits with code 2."""


class SecretError(ValueError):
    """A mistake in a value that contains a secret; messages must not repeat the value."""


def nearest(word: str, known: list[str], cutoff: float = 0.5) -> str:
    """``did you mean 'x'?`` or, if nothing is that close, the list of known names."""
    close = get_close_matches(word, known, n=1, cutoff=cutoff)
    if close:
        return f"did you mean '{close[0]}'?"
    return "expected one of: " + ", ".join(sorted(known))
