"""Notice that a worker stays at one line of code, to say which rank the others wait for."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from sweeps.storage.outages import repeated

STALL_SECONDS = 60.0
"""A worker that a call has held for this long is worth a note; most do so while others work."""

_OURS = ("sweeps", "evaluators", "gmt_core")


@contextmanager
def noting_stalls(note: Callable[[str], object], seconds: float = STALL_SECONDS) -> Iterator[None]:
    """While the block runs, call ``note`` with the place of this thread when it has not moved, and
    with an empty text when it moves again.

    It may be wrong about a loop that is at the same line twice, so it ends nothing.
    """
    watched, before, noted = threading.get_ident(), (0, 0), ""

    def watch() -> None:
        nonlocal before, noted
        frame = sys._current_frames()[watched]
        # Not the frame itself, which would keep its tensors alive.
        here = id(frame), frame.f_lasti
        place = _place(frame) if here == before else ""
        if place != noted:
            note(place)
        before, noted = here, place

    with repeated(watch, seconds):
        yield


def _place(frame: FrameType) -> str:
    """The innermost line of our code, as ``sweeps.finetune.loop:12 (name)``, or else of any."""
    here: FrameType | None = frame
    while here is not None:
        if _module(here).split(".")[0] in _OURS:
            return f"{_module(here)}:{here.f_lineno} ({here.f_code.co_name})"
        here = here.f_back
    return f"{_module(frame)}:{frame.f_lineno}"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
