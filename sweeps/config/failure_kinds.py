"""The kinds of trial failures; the sweep reacts to each kind differently."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Literal, get_args

FailureKind = Literal[
    "oom", "diverged", "infrastructure", "configuration", "disk", "timeout", "error"
]
"""``infrastructure``: workers, their node or a device was lost; the job queue retries the trial.
``configuration`` and ``disk``: every other trial would fail too, so the study stops, and tries the
trial again when it continues. ``diverged``: a bad point, reported to the sampler. ``error``: a
bug. Within a run, only infrastructure failures are retried."""

KINDS: tuple[FailureKind, ...] = get_args(FailureKind)
STOPS_THE_STUDY: tuple[FailureKind, ...] = ("configuration", "disk")

_OURS = ("sweeps", "evaluators", "gmt_core")
_DISK_FULL = ("no space left on device", "disk is full")
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")
# The texts of CUDA's errors that no program causes by itself (cudaGetErrorString), and torch's.
_BAD_NODE = (
    "uncorrectable ecc",
    "uncorrectable nvlink",
    "unspecified launch failure",
    "hardware stack error",
    "no cuda gpus are available",
    "no cuda-capable device is detected",
    "cuda-capable device(s) is/are busy or unavailable",
)
# A device that others fill, or the links between devices: the node may be sound.
_BAD_LINK = (
    "cublas_status_alloc_failed",
    "cublas_status_not_initialized",
    "ncclsystemerror",
    "ncclremoteerror",
    "ncclinternalerror",
    "ncclunhandledcudaerror",
    "nccl communicator was aborted",
    "watchdog caught collective operation timeout",
)


def kind_of(error: BaseException) -> FailureKind:
    """The kind of an exception that ended a trial, or of its cause."""
    return next((kind for each in chain(error) if (kind := _own_kind(each))), "error")


def is_of_device(error: BaseException) -> bool:
    """Whether a device or a link between devices failed, so that the trial is tried again."""
    return kind_of(error) == "infrastructure" and _says(error, _BAD_NODE + _BAD_LINK)


def blames_node(error: BaseException) -> bool:
    """Whether the hardware of the worker's node failed, so that another node is better."""
    return _says(error, _BAD_NODE)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    return any(word in str(each).lower() for each in chain(error) for word in words)


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
    is_of_hardware = any(words in said for words in _BAD_NODE + _BAD_LINK)
    if is_of_hardware or isinstance(error, ConnectionError | TimeoutError):
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
