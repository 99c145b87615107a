"""Signals that stop a program, raised promptly but never inside a critical block or lost.

SIGTERM and a closed terminal act like Ctrl-C: KeyboardInterrupt in the main thread.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

AGAIN_SECONDS = 0.1
"""How soon an interrupt is sent again if a callback swallowed it."""


@final
class _Interrupt:
    """The handler of all these signals. ``depth``: the number of open `shielded` blocks."""

    def __init__(self) -> None:
        self.depth, self.waits = 0, False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.waits = self.depth > 0
        if not self.waits:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Leave a block; leaving the outermost one raises a delayed interrupt."""
        self.depth -= 1
        if not self.depth and self.waits:
            self.waits = False
            raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[signal.Signals]:
    """Make the signals raise KeyboardInterrupt; yields a signal that always does.

    That is SIGTERM: a process that a script starts in the background ignores SIGINT, and one under
    nohup ignores SIGHUP; these stay ignored. Outside the main thread, which alone may set
    handlers, it yields SIGINT and changes nothing. Nested blocks change nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield signal.SIGINT
        return
    if _handler() is not None:
        yield signal.SIGTERM
        return
    handler, hook = _Interrupt(), sys.unraisablehook

    def unraisable(lost: UnraisableHookArgs) -> None:
        """Resend: Python drops exceptions raised in weak reference callbacks or ``__del__``."""
        if lost.exc_type is KeyboardInterrupt:
            again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGTERM))
            again.daemon = True
            again.start()
        else:
            hook(lost)

    heard = [
        number
        for number in SIGNALS
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, handler) for number in heard}
    sys.unraisablehook = unraisable
    try:
        yield signal.SIGTERM
    finally:
        with shielded():
            sys.unraisablehook = hook
            for number, handled in before.items():
                signal.signal(number, handled)


@contextmanager
def shielded() -> Iterator[None]:
    """Delay an interrupt until the end of the block, where it is raised.

    It protects code that Tune or Optuna calls in the main thread; other threads are never
    interrupted.
    """
    handler = _handler()
    if handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler.depth += 1
    try:
        yield
    finally:
        handler.close()


def is_interrupted() -> bool:
    """Whether an interrupt is waiting for a `shielded` block, which should end soon."""
    handler = _handler()
    return handler is not None and handler.waits


def _handler() -> _Interrupt | None:
    """The active handler; it is stored only in the process's signal table."""
    found = signal.getsignal(signal.SIGTERM)
    return found if isinstance(found, _Interrupt) else None
