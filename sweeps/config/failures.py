"""The kinds of trial failures; the sweep reacts to each kind differently."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Literal, get_args

FailureKind = Literal[
    "oom", "diverged", "infrastructure", "configuration", "disk", "timeout", "error"
]
"""``infrastructure``: workers or their node were lost; the job queue retries the trial elsewhere.
``configuration`` and ``disk``: every other trial would fail too, so the study stops. ``diverged``:
a bad point, reported to the sampler. ``error``: a bug. Only infrastructure failures are retried
automatically."""

KINDS: tuple[FailureKind, ...] = get_args(FailureKind)
STOPS_THE_STUDY: tuple[FailureKind, ...] = ("configuration", "disk")

_OURS = ("sweeps", "evaluators", "gmt_core")
_DISK_FULL = ("no space left on device", "disk is full")
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


def kind_of(error: BaseException) -> FailureKind:
    """The kind of an exception that ended a trial, or of its cause."""
    return next((kind for each in chain(error) if (kind := _own_kind(each))), "error")


def cause(failure: str) -> str:
    """The first line of a failure, shown to users."""
    return next((line.strip() for line in failure.splitlines() if line.strip()), "")


def _own_kind(error: BaseException) -> FailureKind | None:
    said = str(error).lower()
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk"
    if any(words in said for words in _DISK_FULL):  # the wording of SQLite and pyarrow
        return "disk"
    if isinstance(error, MemoryError) or any(words in said for words in _OUT_OF_MEMORY):
        return "oom"
    if isinstance(error, ConnectionError | TimeoutError):
        return "infrastructure"
    # Our own ValueErrors report user mistakes: see sweeps.execution.sweep.check.
    if isinstance(error, ValueError) and type(error).__module__.split(".")[0] in _OURS:
        return "configuration"
    return None


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, then its causes and contexts, outermost first."""
    seen: set[int] = set()
    here: BaseException | None = error
    while here is not None and id(here) not in seen:
        seen.add(id(here))
        yield here
        here = here.__cause__ or here.__context__
