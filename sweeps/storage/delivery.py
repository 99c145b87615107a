"""What a trial writes goes to the object store while it trains, and is there when it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from sweeps.storage.object_store import StorageError
from sweeps.storage.trial_copy import SupersededError, TrialCopy

T = TypeVar("T")

BEAT_SECONDS = 2.0
"""What a lost worker costs at most, beside the updates since its last checkpoint; more where what
is sent is large."""

EVENTS_BYTES_PER_SECOND = 1 << 20
"""What a trial's events cost at most: objects cannot be appended to, so that all of them are sent
each time, and the longer they are the more rarely."""

PATIENCE_SECONDS = 600.0
"""How long a trial's beginning and end wait for a store that does not answer."""


def patiently(ask: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
    """What a store answers, asked again and again, at longer and longer intervals.

    Raises:
        StorageError: its last answer, after so many seconds.
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


def pause_after(seconds: float, events_bytes: int) -> float:
    """Until the next push, after one that took so long: it costs half of the time at most."""
    return max(BEAT_SECONDS, seconds, events_bytes / EVENTS_BYTES_PER_SECOND)


@contextmanager
def delivered(trial: TrialCopy) -> Iterator[Callable[[], None]]:
    """Push in the background while the block runs, and all at its end. Yields what pushes the
    events now, for a moment at which others look at them; a store that does not answer then is
    no matter, since the background tries again.

    Raises:
        StorageError: at the end the store did not take it; or a later try has begun.
    """
    over = threading.Event()
    superseded: list[SupersededError] = []

    def beat() -> None:
        pause = BEAT_SECONDS
        while not over.wait(pause):
            began = time.monotonic()
            try:
                trial.push()
            except SupersededError as error:
                superseded.append(error)
                return
            except OSError:
                pass  # the store does not answer, or a file went away: tried again
            pause = pause_after(time.monotonic() - began, trial.events_bytes)

    def events_now() -> None:
        if superseded:
            raise superseded[0]
        try:
            trial.push_events()
        except SupersededError:
            raise
        except StorageError:
            pass

    thread = threading.Thread(target=beat, name="delivery", daemon=True)
    thread.start()
    try:
        yield events_now
    except BaseException:
        over.set()
        thread.join()
        with suppress(OSError):  # what ended the trial says more than this
            trial.push()
        raise
    over.set()
    thread.join()
    patiently(trial.finish)
