"""Whether the storage can be written, and whether every machine means the same folder by it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeps.doctor.finding import Finding
from sweeps.errors import UserError
from sweeps.preflight import writable

PROBE = ".probe-"
SHARED = (
    "mount one folder on every node (NFS, EFS, FSx; see docs/cluster.md), and give it as "
    "storage=/shared/runs"
)


def check_writable(storage: Path) -> Finding:
    """The driver's own view."""
    try:
        with writable(storage):
            return Finding("storage", True, f"{storage} can be written")
    except UserError as error:
        return Finding("storage", False, str(error), "give another folder, as storage=FOLDER")


@contextmanager
def probe(storage: Path) -> Iterator[str]:
    """A word in the storage while the block runs, which a node that shares it can read."""
    word = uuid.uuid4().hex
    storage.mkdir(parents=True, exist_ok=True)
    try:
        (storage / f"{PROBE}{word}").write_text(word)
        yield word
    finally:
        for left in storage.glob(f"{PROBE}{word}*"):
            left.unlink(missing_ok=True)


def answer(storage: Path, word: str, node: str) -> str:
    """On a node: read the driver's word and write one's own. Returns what is wrong, or ""."""
    try:
        if not (storage / f"{PROBE}{word}").is_file():
            return "what the driver wrote there is not seen here"
        (storage / f"{PROBE}{word}-{node}").write_text(node)
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    return ""


def check_shared(storage: Path, word: str, node: str, problem: str) -> Finding:
    """On the driver, with a node's answer: each sees what the other wrote."""
    if not problem and not (storage / f"{PROBE}{word}-{node}").is_file():
        problem = "what was written there does not arrive at the driver"
    if problem:
        said = f"{storage}: {problem}; another node could not go on from a trial's checkpoint"
        return Finding("storage", False, said, SHARED)
    return Finding("storage", True, f"{storage} is the driver's")
