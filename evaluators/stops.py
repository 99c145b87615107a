"""Stop strings: where a completion ends, found row by row while tokens arrive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first occurrence of any of `stops`."""
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(found)] if found else text


@final
class StopFinder:
    """Tells after each token whether a row's text now contains a stop string.

    `decode` turns ids into text. Only the newest tokens are decoded, and only when the newest
    one can complete a stop, so the cost per token does not grow with the completion.
    """

    def __init__(self, stops: Sequence[str], decode: Callable[[Sequence[int]], str]) -> None:
        if not all(stops):
            raise ValueError("A stop string must not be empty")
        self._stops = tuple(stops)
        self._decode = decode
        self._endings = {stop[-1] for stop in stops}
        self._can_end: dict[int, bool] = {}
        # A token holds at least a byte; the slack covers tokens that show no text.
        self._window = max((len(stop.encode()) for stop in stops), default=0) + 4

    def __call__(self, ids: Sequence[int]) -> bool:
        """Whether the last token of `ids` completes a stop string."""
        if not self._stops or not self._suspicious(ids[-1]):
            return False
        text = self._decode(ids[-self._window :])
        return any(stop in text for stop in self._stops)

    def _suspicious(self, token: int) -> bool:
        known = self._can_end.get(token)
        if known is None:
            piece = self._decode([token])
            # A part of a character decodes to the replacement character: it may be any.
            known = "\ufffd" in piece or any(sign in piece for sign in self._endings)
            self._can_end[token] = known
        return known
