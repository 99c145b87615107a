"""Errors that the method raises."""

from __future__ import annotations

from typing import Final

_NOT_FINITE: Final = "the gradient holds NaN or infinity, so no magnitude threshold exists"


class NonFiniteGradientError(ValueError):
    """A gradient holds NaN or infinity. `index`: its position, None if unknown."""

    def __init__(self, message: str = _NOT_FINITE, index: int | None = None) -> None:
        """Keep the position beside the message, so that a caller can name the parameter."""
        super().__init__(message)
        self.index = index
