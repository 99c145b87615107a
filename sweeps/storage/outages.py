"""Outlast an outage of a disk or a service: retry a call, or repeat work beside a block."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sweeps.storage.object_store import StorageError, SupersededError

T = TypeVar("T")

PATIENCE_SECONDS = 600.0
"""How long the start and the end of a trial wait for a store that does not respond."""

TROUBLE = (OSError, sqlite3.Error)


def retry_storage(ask: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
    """The result of ``ask``, retried with growing pauses.

    Raises:
        SupersededError: at once.
        StorageError: the last error, after ``seconds``.
    """
    deadline, pause = time.monotonic() + seconds, 1.0
    while True:
        try:
            return ask()
        except SupersededError:
            raise
        except StorageError:
            if time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 30.0)


@contextmanager
def repeated(
    work: Callable[[], object],
    seconds: float,
    complain: Callable[[Exception], object] = lambda error: None,
) -> Iterator[None]:
    """Call ``work`` every ``seconds`` in a thread while the block runs; less often if it is slow.

    An error of a disk, a database or the object store is passed to ``complain``, once until
    ``work`` succeeds again. A `SupersededError` ends the calls.
    """
    over = threading.Event()

    def loop() -> None:
        has_complained, pause = False, seconds
        while not over.wait(pause):
            began = time.monotonic()
            try:
                work()
                has_complained = False
            except SupersededError:
                return
            except TROUBLE as error:
                if not has_complained:
                    complain(error)
                has_complained = True
            pause = max(seconds, time.monotonic() - began)  # at most half of the time

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
