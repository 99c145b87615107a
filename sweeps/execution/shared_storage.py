"""Check that every machine of a cluster sees the same storage and may write to it."""

from __future__ import annotations

import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from sweeps.execution.job_messages import Ending, Job
from sweeps.execution.remote_job import Report, RunJob
from sweeps.storage.address import Address, is_address
from sweeps.storage.errors import UserError
from sweeps.storage.object_store import ObjectStore

PROBE = ".probe-"
ANSWER_SECONDS = 120.0
"""How long to wait for a node; its first task starts a process there."""

LOOK_AGAIN_SECONDS = (1.0, 2.0, 4.0)
"""Pauses between a worker's checks for the driver's file, which a file server may show late."""

SHARED = (
    "mount one folder on every node (NFS, EFS, FSx; see docs/cluster.md), and set it, for "
    "example storage=/shared/runs"
)


Storage = Path | str
"""A folder, or the address of an object store."""


ALLOWED = "give every node a role or credentials for it (see docs/cluster.md)"


@contextmanager
def probe(storage: Storage) -> Iterator[str]:
    """A file in the storage during the block, which nodes that share the storage can read."""
    word = uuid.uuid4().hex
    try:
        _write(storage, _file(word))
        yield word
    finally:
        _remove(storage, f"{PROBE}{word}")


def _file(word: str, node: str = "driver") -> str:
    return f"{PROBE}{word}/{node}"


@final
@dataclass(frozen=True)
class SharedFolderJob:
    """Wraps another job function; first checks that this node sees the driver's ``word``.

    Nodes may join long after the sweep started, so every job checks.
    """

    folder: str
    word: str
    run: RunJob

    def __call__(self, job: Job, report: Report, memory: dict[str, Any]) -> Ending | None:
        """Called on every rank; see `sweeps.execution.worker_groups.RunJob`.

        Raises:
            UserError: on every rank, if one of their nodes has another folder; nothing was
                written.
        """
        from sweeps.finetune.process_group import Group

        said = dict.fromkeys(Group.current().every(self._problem()))
        if wrong := [each for each in said if each]:
            raise UserError(f"storage {self.folder}: {'; '.join(wrong)}. To fix it, {SHARED}")
        return self.run(job, report, memory)

    def _problem(self) -> str:
        for pause in (*LOOK_AGAIN_SECONDS, 0.0):
            if _is_there(self.folder, _file(self.word)):
                return ""
            time.sleep(pause)
        return (
            f"node {_node_name()} has a different disk there than the driver, so trials cannot "
            "run on it"
        )


def _node_name() -> str:
    import ray

    name = socket.gethostname()
    return f"{name} ({ray.util.get_node_ip_address()})" if ray.is_initialized() else name


def answer(storage: Storage, word: str, node: str) -> str:
    """On a node: read the driver's file and write another one. Returns the error, or ""."""
    try:
        if not _is_there(storage, _file(word)):
            return "the driver's file is not visible there"
        _write(storage, _file(word, node))
    except OSError as error:
        return f"cannot be written ({error.strerror or error})"
    return ""


def problem(storage: Storage, word: str, node: str, answered: str) -> str:
    """On the driver, given a node's answer: the error of the storage on that node, or ""."""
    if answered or _is_there(storage, _file(word, node)):
        return answered
    return "its file is not visible to the driver"


def _write(storage: Storage, name: str) -> None:
    if is_address(str(storage)):
        _open(storage).put(name, name.encode())
        return
    Path(storage, name).parent.mkdir(parents=True, exist_ok=True)
    Path(storage, name).write_text(name)


def _is_there(storage: Storage, name: str) -> bool:
    if is_address(str(storage)):
        return _open(storage).stat(name) is not None
    return Path(storage, name).is_file()


def _remove(storage: Storage, folder: str) -> None:
    if is_address(str(storage)):
        _open(storage).remove_tree(folder)
    else:
        shutil.rmtree(Path(storage, folder), ignore_errors=True)


def _open(storage: Storage) -> ObjectStore:
    return ObjectStore.open(Address.parse(str(storage)))


def require_shared(storage: Storage) -> None:
    """Check all nodes of the joined cluster; a single node has nothing to share.

    Raises:
        UserError: names the nodes that see another storage, or none.
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
            except (
                ray.exceptions.RayError
            ) as error:  # lost or too busy: ask Ray whether it is alive
                said = "" if name not in _alive() else f"did not respond ({type(error).__name__})"
            if said:
                wrong.append(f"{living[name]['NodeManagerAddress']}: {said}")
    if wrong:
        what = "store that all can use" if is_address(str(storage)) else "folder shared by all"
        raise UserError(
            f"storage {storage}: on a cluster of {len(living)} nodes it must be one {what}, "
            "because a trial may resume from its checkpoint on another node; "
            f"{'; '.join(wrong)}. To fix it, {remedy(storage)}"
        )


def remedy(storage: Storage) -> str:
    """How to fix a storage that nodes do not share."""
    return ALLOWED if is_address(str(storage)) else SHARED


def _alive() -> set[str]:
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
