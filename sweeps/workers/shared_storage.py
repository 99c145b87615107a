"""Whether every machine of a cluster means the same place by the storage, and may use it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeps.errors import UserError
from sweeps.storage.address import Address, is_address
from sweeps.storage.object_store import ObjectStore

PROBE = ".probe-"
ANSWER_SECONDS = 120.0
"""A node's first task starts a process there."""

SHARED = (
    "mount one folder on every node (NFS, EFS, FSx; see docs/cluster.md), and give it as "
    "storage=/shared/runs"
)


Storage = Path | str
"""A folder, or the address of an object store."""


ALLOWED = "give every node a role, or an environment, that may use it (see docs/cluster.md)"


@contextmanager
def probe(storage: Storage) -> Iterator[str]:
    """A word in the storage while the block runs, which a node that shares it can read."""
    word = uuid.uuid4().hex
    try:
        _write(storage, f"{PROBE}{word}")
        yield word
    finally:
        _clear(storage, f"{PROBE}{word}")


def answer(storage: Storage, word: str, node: str) -> str:
    """On a node: read the driver's word and write one's own. Returns what is wrong, or ""."""
    try:
        if not _is_there(storage, f"{PROBE}{word}"):
            return "what the driver wrote there is not seen here"
        _write(storage, f"{PROBE}{word}-{node}")
    except OSError as error:
        return f"cannot be written ({error.strerror or error})"
    return ""


def problem(storage: Storage, word: str, node: str, answered: str) -> str:
    """On the driver, with a node's answer: what is wrong with the storage there, or ""."""
    if answered or _is_there(storage, f"{PROBE}{word}-{node}"):
        return answered
    return "what was written there does not arrive at the driver"


def _write(storage: Storage, name: str) -> None:
    if is_address(str(storage)):
        _open(storage).put(name, name.encode())
        return
    Path(storage).mkdir(parents=True, exist_ok=True)
    Path(storage, name).write_text(name)


def _is_there(storage: Storage, name: str) -> bool:
    if is_address(str(storage)):
        return _open(storage).stat(name) is not None
    return Path(storage, name).is_file()


def _clear(storage: Storage, start: str) -> None:
    if is_address(str(storage)):
        store = _open(storage)
        for name in store.files():
            if name.startswith(start):
                store.remove(name)
        return
    for left in Path(storage).glob(f"{start}*"):
        left.unlink(missing_ok=True)


def _open(storage: Storage) -> ObjectStore:
    return ObjectStore.open(Address.parse(str(storage)))


def require_shared(storage: Storage) -> None:
    """Ask every node of the joined cluster; a cluster of one node has nothing to share.

    Raises:
        UserError: naming the nodes for which the storage is another one, or none.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    living = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    if len(living) < 2:
        return
    task = ray.remote(num_cpus=0)(answer)
    with probe(storage) as word:
        asked = {
            name: task.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=True)
            ).remote(storage, word, name)
            for name in living
        }
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_SECONDS)
        wrong = []
        for name, reference in asked.items():
            try:
                said = problem(storage, word, name, ray.get(reference, timeout=0.1))
            except ray.exceptions.RayError as error:  # lost, or too busy: Ray has the last word
                said = "" if name not in _alive() else f"gave no answer ({type(error).__name__})"
            if said:
                wrong.append(f"{living[name]['NodeManagerAddress']}: {said}")
    if wrong:
        what = "store that all may use" if is_address(str(storage)) else "folder for all"
        raise UserError(
            f"storage {storage}: on a cluster of {len(living)} nodes it must be one {what}, "
            "since a trial goes on from its checkpoint on another node; "
            f"{'; '.join(wrong)}. To mend it, {mending(storage)}"
        )


def mending(storage: Storage) -> str:
    """What to do where the nodes do not share it."""
    return ALLOWED if is_address(str(storage)) else SHARED


def _alive() -> set[str]:
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
