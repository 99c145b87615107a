"""Whether every machine of a cluster means the same folder by the storage."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeps.errors import UserError

PROBE = ".probe-"
ANSWER_SECONDS = 120.0
"""A node's first task starts a process there."""

SHARED = (
    "mount one folder on every node (NFS, EFS, FSx; see docs/cluster.md), and give it as "
    "storage=/shared/runs"
)


@contextmanager
def probe(folder: Path) -> Iterator[str]:
    """A word in the folder while the block runs, which a node that shares it can read."""
    word = uuid.uuid4().hex
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / f"{PROBE}{word}").write_text(word)
        yield word
    finally:
        for left in folder.glob(f"{PROBE}{word}*"):
            left.unlink(missing_ok=True)


def answer(folder: Path, word: str, node: str) -> str:
    """On a node: read the driver's word and write one's own. Returns what is wrong, or ""."""
    try:
        if not (folder / f"{PROBE}{word}").is_file():
            return "what the driver wrote there is not seen here"
        (folder / f"{PROBE}{word}-{node}").write_text(node)
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    return ""


def problem(folder: Path, word: str, node: str, answered: str) -> str:
    """On the driver, with a node's answer: what is wrong with the storage there, or ""."""
    if answered or (folder / f"{PROBE}{word}-{node}").is_file():
        return answered
    return "what was written there does not arrive at the driver"


def require_shared(folder: Path) -> None:
    """Ask every node of the joined cluster; a cluster of one node has nothing to share.

    Raises:
        UserError: naming the nodes for which the storage is another folder, or none.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    living = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    if len(living) < 2:
        return
    task = ray.remote(num_cpus=0)(answer)
    with probe(folder) as word:
        asked = {
            name: task.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=True)
            ).remote(folder, word, name)
            for name in living
        }
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_SECONDS)
        wrong = []
        for name, reference in asked.items():
            try:
                said = problem(folder, word, name, ray.get(reference, timeout=0.1))
            except ray.exceptions.RayError as error:  # lost, or too busy: Ray has the last word
                said = "" if name not in _alive() else f"gave no answer ({type(error).__name__})"
            if said:
                wrong.append(f"{living[name]['NodeManagerAddress']}: {said}")
    if wrong:
        raise UserError(
            f"storage {folder}: on a cluster of {len(living)} nodes it must be one folder for "
            f"all, since a trial goes on from its checkpoint on another node; "
            f"{'; '.join(wrong)}. To mend it, {SHARED}"
        )


def _alive() -> set[str]:
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
