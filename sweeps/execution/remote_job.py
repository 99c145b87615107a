"""Run jobs with an object store: files are transferred through a local folder of the worker."""

from __future__ import annotations

import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, final

from filelock import FileLock, Timeout

from sweeps.config.sweep_config import SweepConfig
from sweeps.execution.job_messages import STORE, Ending, Job, TrialJob
from sweeps.execution.trial_upload import TrialCopy, background_upload
from sweeps.finetune.reporter import Check
from sweeps.storage.address import Address, folder_of, is_address
from sweeps.storage.object_store import Entry, ObjectStore
from sweeps.storage.outages import retry_storage

if TYPE_CHECKING:
    from sweeps.finetune.process_group import Group

CACHE = "cache"


@final
@dataclass(frozen=True)
class Stored:
    """An object store as workers see it.

    ``mirror``: the driver's local folder for it, which appears in jobs. ``one_node``: the workers
    of a trial must share one folder, because each writes a part.
    """

    address: str
    mirror: str
    one_node: bool

    @classmethod
    def of(cls, config: SweepConfig) -> Self | None:
        """The object store of a sweep; None if the storage is a folder that all nodes see."""
        if not is_address(config.storage):
            return None
        one_node = config.training.parallel == "fsdp"
        return cls(config.storage, str(folder_of(config.storage)), one_node)

    def open(self) -> ObjectStore:
        """Connect; raises `StorageError` if the store does not respond."""
        return ObjectStore.open(Address.parse(self.address))


Report = Callable[[Check], bool]
RunJob = Callable[[Job, Report, dict[str, Any]], Ending | None]
"""Runs a job on every rank; ``report`` returns False if the job must stop. Returns its last
result, or None if it was stopped. The mapping is the memory of the process, kept between jobs."""


@final
@dataclass(frozen=True)
class StoredJob:
    """Wraps another job function, replacing the driver's folders by folders of this node."""

    stored: Stored
    run: RunJob

    def __call__(self, job: Job, report: Report, memory: dict[str, Any]) -> Ending | None:
        """Called on every rank; see `RunJob`."""
        from sweeps.finetune.process_group import Group

        if STORE not in memory:
            memory[STORE] = retry_storage(self.stored.open)
        store = memory[STORE]
        fetch_cache(store, self.stored, memory)
        group = Group.current()
        with _scratch(group) as scratch:
            if _leads_node(group):
                for folder in job.models():
                    if name := self._name(folder):
                        retry_storage(partial(_fetch_model, store, name, scratch))
            if isinstance(job, TrialJob) and not job.is_derived:
                return self._train(job, report, memory, scratch)
            group.wait()
            return self.run(self._moved(job, scratch), report, memory)

    def _train(
        self, job: TrialJob, report: Report, memory: dict[str, Any], scratch: Path
    ) -> Ending | None:
        from sweeps.finetune.process_group import Group

        name, group = self._name(job.folder), Group.current()
        trial = TrialCopy(memory[STORE], name, scratch / name, claim=scratch.name)
        if group.leads:
            retry_storage(trial.claim)
        group.wait()
        if _leads_node(group):
            retry_storage(trial.fetch)
        group.wait()
        moved = self._moved(job, scratch)
        if not group.leads:
            return self.run(moved, report, memory)
        with background_upload(trial) as events_now:

            def report_with_events(check: Check) -> bool:
                events_now()  # receivers of the check read them
                return report(check)

            return self.run(moved, report_with_events, memory)

    def _moved(self, job: Job, scratch: Path) -> Job:
        """The job with this worker's folder instead of the driver's."""

        def move(folder: str) -> str:
            name = self._name(folder)
            return f"{scratch}/{name}" if name else folder

        return job.moved(move)

    def _name(self, folder: str) -> str:
        """The path of a driver's folder in the store; empty for other places."""
        inside = Path(folder).is_relative_to(self.stored.mirror)
        return Path(folder).relative_to(self.stored.mirror).as_posix() if inside else ""


def push_cache(stored: Stored) -> None:
    """Upload the files that the driver generated for all nodes, if missing."""
    store, cache = stored.open(), Path(stored.mirror) / CACHE
    there = store.files(CACHE)
    for file in cache.rglob("*"):
        name = f"{CACHE}/{file.relative_to(cache).as_posix()}"
        if file.is_file() and not _is_copy(file, there.get(name)):
            store.upload(file, name)


def fetch_cache(store: ObjectStore, stored: Stored, memory: dict[str, Any]) -> None:
    """Download the generated files, to the same path as on the driver; once per process."""
    if "cache_fetched" in memory:
        return
    for name, entry in retry_storage(partial(store.files, CACHE)).items():
        target = Path(stored.mirror) / name
        if not _is_copy(target, entry):
            retry_storage(partial(store.download, name, target))
    memory["cache_fetched"] = True


def _is_copy(file: Path, entry: Entry | None) -> bool:
    """Whether a cached file is complete; its folder is named by a hash of its content."""
    return entry is not None and file.is_file() and file.stat().st_size == entry.size


@contextmanager
def _scratch(group: Group) -> Iterator[Path]:
    """A local folder for one attempt of a job, with a unique name.

    The name is unique because workers that Ray considered lost may still run the same job here.
    Folders of killed workers are removed.
    """
    given = os.environ.get("GMT_SWEEP_SCRATCH", "~/.gmt-sweep/work")
    home = Path(given).expanduser() / socket.gethostname()  # machines may share a home
    leader = group.rank - _local_rank(group)  # tests run two nodes on one machine
    folder = home / f"{group.tell(uuid.uuid4().hex)}-{leader}"
    if not _leads_node(group):
        group.wait()
        yield folder
        return
    home.mkdir(parents=True, exist_ok=True)
    record = home / f"{folder.name}.lock"
    with FileLock(record):
        _clear(home)
        folder.mkdir()
        group.wait()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            record.unlink(missing_ok=True)


def _clear(home: Path) -> None:
    for record in home.glob("*.lock"):
        lock = FileLock(record, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            continue  # in use by a living worker
        shutil.rmtree(record.with_suffix(""), ignore_errors=True)
        record.unlink(missing_ok=True)
        lock.release()


def _leads_node(group: Group) -> bool:
    """Whether this rank writes the files of its node."""
    return _local_rank(group) == 0


def _local_rank(group: Group) -> int:
    """This rank's index on its node, as Train and torchrun set it."""
    return int(os.environ.get("LOCAL_RANK", group.rank))


def _fetch_model(store: ObjectStore, name: str, scratch: Path) -> None:
    for path in store.files(name):
        if not (scratch / path).exists():
            store.download(path, scratch / path)
