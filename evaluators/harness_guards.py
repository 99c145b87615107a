"""What surrounds calls of lm-eval: sentences for what is missing, and a process left as it was."""

from __future__ import annotations

import importlib.util
import io
import random
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from typing import final
from unittest import mock

from evaluators.errors import DataError

_NLTK = re.compile(r"nltk\.download\('([\w-]+)'\)")


@final
class MissingHarness(ValueError):
    """lm-eval, or what one of its tasks needs, is not installed."""


def require_harness() -> None:
    """Raise MissingHarness where lm-eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingHarness("lm-eval is not installed: install the extra with gmt-sweep[eval]")


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn what a task lacks into a sentence."""
    try:
        yield
    except (DataError, MissingHarness):
        raise
    except ModuleNotFoundError as error:
        raise MissingHarness(
            f"lm_eval:{name} needs the package {error.name!r}, which is not installed; install it "
            f"(pip install {error.name})"
        ) from error
    except Exception as error:
        if (corpus := _NLTK.search(str(error))) is not None:
            raise MissingHarness(
                f"lm_eval:{name} needs NLTK's {corpus[1]!r}, which is missing; download it "
                f"(python -m nltk.downloader {corpus[1]})"
            ) from error
        said = next(iter(str(error).strip().splitlines()), "")
        raise DataError(
            f"lm_eval:{name} cannot be used: {type(error).__name__}: {said:.300}"
        ) from error


@contextmanager
def in_any_thread() -> Iterator[None]:
    """Let metrics set timers, which Python refuses outside of the main thread: they do nothing.

    There a metric that uses SIGALRM, such as Minerva's comparison, would call answers unequal.
    """
    if threading.current_thread() is threading.main_thread():
        yield
        return
    with ExitStack() as patched:
        for name in ("signal", "alarm", "setitimer"):
            patched.enter_context(mock.patch.object(signal, name, lambda *_: None))
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put back Python's random state, leave timers alone, and show no progress bars."""
    state = random.getstate()
    try:
        with in_any_thread(), redirect_stderr(io.StringIO()):
            yield
    finally:
        random.setstate(state)
