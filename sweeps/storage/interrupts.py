"""Signals that stop a program: heard at once, but never within what must be whole, and never lost.

A closed terminal and a polite kill end like Ctrl-C: by KeyboardInterrupt in the main thread.
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
"""How soon an interrupt that went down with a callback is sent once more."""


@final
class _Interrupt:
    """The handler of all these signals. ``depth``: how many `shielded` blocks are open."""

    def __init__(self) -> None:
        self.depth, self.waits = 0, False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.waits = self.depth > 0
        if not self.waits:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Leave a block; out of the last one, what came meanwhile is raised."""
        self.depth -= 1
        if not self.depth and self.waits:
            self.waits = False
            raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[signal.Signals]:
    """Have the signals raise KeyboardInterrupt; yields the one that certainly does.

    That is SIGTERM, for a process that a script started in the background ignores SIGINT, and one
    under nohup SIGHUP; both stay ignored. Only the main thread may set a handler: elsewhere SIGINT
    is what there is. Within another such block it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield signal.SIGINT
        return
    if _handler() is not None:
        yield signal.SIGTERM
        return
    handler, hook = _Interrupt(), sys.unraisablehook

    def unraisable(lost: UnraisableHookArgs) -> None:
        """Python drops what is raised in the callback of a weak reference or in ``__del__``."""
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
    """An interrupt waits for the end of the block, and is raised there.

    What is called by Tune or Optuna in the main thread is safe with it; other threads are never
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
    """Whether an interrupt waits for the end of a `shielded` block, which better ends soon."""
    handler = _handler()
    return handler is not None and handler.waits


def _handler() -> _Interrupt | None:
    """The one at work: the table of signals is the only place that knows it."""
    found = signal.getsignal(signal.SIGTERM)
    return found if isinstance(found, _Interrupt) else None
