"""The job queue of a sweep: jobs for its worker groups, and their results until they are read.

It has its own file because its actor imports only this module and little else.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

from sweeps.config.failures import failed

Message = dict[str, Any]
BEAT_SECONDS = 10.0
"""The longest that rank 0 keeps its peers waiting in one broadcast."""

WATCH_SECONDS = 2.0
"""How often a group's rank 0 is checked for being alive."""

LEASE_SECONDS = 300.0
"""A job is stopped if nobody has asked for its results for this long: its client is gone."""


@dataclass
class _Job:
    message: Message
    attempt: int = 0
    holder: str = ""
    seen: int = -1
    over: bool = False
    results: deque[Message] = field(default_factory=deque)
    retries: list[str] = field(default_factory=list)
    """Why attempts were lost, until the next result takes it along."""

    asked: float = field(default_factory=time.monotonic)

    def with_retries(self, result: Message) -> Message:
        """The result, and why attempts before it were lost; each cause is sent once."""
        causes, self.retries = self.retries, []
        return {**result, "retries": causes} if causes else result


@final
class JobQueue:
    """Gives each job to one group, and holds at most one unread result so that jobs can stop.

    A job is a mapping with a unique ``id`` and a ``key``. Jobs with the same key work in the same
    folder: a new one stops the old one and waits until its group has released it.
    """

    def __init__(self, attempts: int, recycle_after_seconds: float = math.inf) -> None:
        """``attempts``: how often a job may lose its workers. A group leaves after a job that took
        ``recycle_after_seconds`` or more."""
        self._attempts, self._recycle_after = attempts, recycle_after_seconds
        self._jobs: dict[str, _Job] = {}  # in order of submission
        self._busy: dict[str, str] = {}  # group to the id of the job it has not released
        self._since: dict[str, float] = {}  # group to the start of that job
        self._workers: dict[str, Any] = {}  # group to its rank 0
        self._sets: dict[str, list[str]] = {}  # group to its sets of workers, latest last
        self._watches: set[asyncio.Task[None]] = set()
        self._closed, self._broken = False, ""
        self._changed = asyncio.Condition()

    async def submit(self, job: Message) -> None:
        """Queue a job; this stops an open job with the same key."""
        async with self._changed:
            for other in self._jobs.values():
                if other.message["key"] == job["key"]:
                    other.over = True
            self._jobs[job["id"]] = _Job(job)
            if self._broken:
                self._finish(job["id"], {"lost": self._broken})
            self._changed.notify_all()

    async def drop(self, job_id: str) -> None:
        """Stop a job if it is still open, and forget its results."""
        async with self._changed:
            self._forget(job_id)
            self._changed.notify_all()

    async def peek(self, job_id: str, timeout: float) -> Message | None:
        """For the client: the job's next result, or None after ``timeout`` seconds."""
        async with self._changed:
            job = self._jobs.get(job_id)
            if job is None:
                return {"lost": "another attempt of the same trial replaced it"}
            job.asked = time.monotonic()
            await self._until(lambda: bool(job.results), timeout)
            job.asked = time.monotonic()
            return job.results[0] if job.results else None

    async def is_held(self, job_id: str) -> bool:
        """Whether a group works on the job; otherwise it is waiting for one."""
        return job_id in self._busy.values()

    async def ack(self, job_id: str) -> None:
        """For the client: remove the result that was read and let the job continue."""
        async with self._changed:
            job = self._jobs.get(job_id)
            if job is not None and job.results:
                job.results.popleft()
            self._changed.notify_all()

    async def fetch(self, group: str, worker: Any = None, by: str = "") -> Message:
        """For rank 0 of a group, the actor ``worker``: ``{"do": "run" | "wait" | "leave"}``.

        ``by``: the name of its set of workers. Train replaces workers that it considers lost, but
        they may still be alive. The replaced workers are told to leave, and their results are
        ignored.
        """
        async with self._changed:
            if self._is_replaced(group, by):
                return {"do": "leave"}
            self._workers[group] = worker
            job_id = self._busy.pop(group, "")
            if not self._is_open(job_id):  # otherwise its workers were restarted within a job
                if job_id and time.monotonic() - self._since[group] >= self._recycle_after:
                    return {"do": "leave"}
                self._changed.notify_all()  # jobs that waited for this folder may start
                await self._until(lambda: self._closed or bool(self._next()), BEAT_SECONDS)
                job_id = self._next()
            if self._closed or self._is_replaced(group, by):
                return {"do": "leave"}
            if not job_id:
                return {"do": "wait"}
            job = self._jobs[job_id]
            job.attempt += 1
            if job.attempt > self._attempts:
                text = f"the workers died {self._attempts} times in this trial"
                self._finish(job_id, failed("infrastructure", text))
                return {"do": "wait"}
            job.holder = by
            self._busy[group] = job_id
            self._since[group] = time.monotonic()
            if worker is not None:
                watch = asyncio.create_task(self._watch(group, worker, job))
                self._watches.add(watch)  # keeps it from being garbage collected
                watch.add_done_callback(self._watches.discard)
            return {"do": "run", **job.message}

    async def _watch(self, group: str, worker: Any, job: _Job) -> None:
        """Requeue a job whose worker is dead, so that another group can continue it.

        Its own group may wait long for resources to replace a lost machine. Losing a machine does
        not count as a failed attempt of the job.
        """
        import ray

        ready = worker.__ray_ready__
        while self._busy.get(group) == job.message["id"] and self._workers.get(group) is worker:
            try:
                await ready.remote()
            except ray.exceptions.ActorUnavailableError:
                pass  # it may come back; Ray reports a dead machine within half a minute
            except ray.exceptions.RayActorError as error:
                async with self._changed:
                    if self._workers.get(group) is worker:
                        self._busy.pop(group, None)
                        job.attempt -= "node has died" in str(error)
                        job.retries.append(f"a worker is gone: {error}".splitlines()[0])
                        self._changed.notify_all()
                return
            await asyncio.sleep(WATCH_SECONDS)

    async def report(self, job_id: str, result: Message, by: str = "") -> str:
        """For rank 0: submit an intermediate result; returns "go", "stop" or "wait" (retry)."""
        async with self._changed:
            job = self._jobs.get(job_id)
            if job is not None and job.holder != by:
                return "stop"
            # A restarted worker repeats the checks since its last checkpoint; count each once.
            if job is not None and not job.over and result["step"] > job.seen:
                job.seen = result["step"]
                job.results.append(job.with_retries(result))
                self._changed.notify_all()
            await self._until(lambda: not self._is_open(job_id) or not self._unread(job_id))
            if not self._is_open(job_id):
                return "stop"
            if not self._unread(job_id):
                return "go"
            if time.monotonic() - self._jobs[job_id].asked > LEASE_SECONDS:
                self._forget(job_id)
                return "stop"
            return "wait"

    async def finish(self, job_id: str, result: Message, by: str = "") -> None:
        """For any rank: submit the job's last result."""
        async with self._changed:
            if self._is_open(job_id) and self._jobs[job_id].holder == by:
                self._finish(job_id, result)

    async def evict(self, job_id: str) -> Any:
        """Drop a job that its group does not release; returns that group's rank 0, to kill, or
        None."""
        async with self._changed:
            self._forget(job_id)
            self._changed.notify_all()
            held = [group for group, busy in self._busy.items() if busy == job_id]
            return self._workers.get(held[0]) if held else None

    async def gone(self, group: str, reason: str) -> None:
        """A group has ended; its open job gets ``{"lost": reason}``."""
        async with self._changed:
            job_id = self._busy.pop(group, "")
            self._workers.pop(group, None)
            if self._is_open(job_id):
                self._finish(job_id, {"lost": reason})
            self._changed.notify_all()

    async def give_up(self, reason: str) -> None:
        """No groups are left: all present and future jobs are lost."""
        async with self._changed:
            self._broken = reason
            for job_id in list(self._jobs):
                if self._is_open(job_id):
                    self._finish(job_id, {"lost": reason})

    async def close(self) -> None:
        """Stop the open jobs and tell the workers to leave."""
        async with self._changed:
            for job in self._jobs.values():
                job.over = True
            self._closed = True
            self._changed.notify_all()

    def _is_replaced(self, group: str, by: str) -> bool:
        """Whether a newer set of workers has joined this group."""
        known = self._sets.setdefault(group, [])
        if by not in known:
            known.append(by)
        return known[-1] != by

    def _next(self) -> str:
        """The first job that no group has and whose folder is not in use; or ""."""
        held = set(self._busy.values())
        keys = {self._jobs[i].message["key"] for i in held if i in self._jobs}
        for job_id, job in self._jobs.items():
            if not job.over and job_id not in held and job.message["key"] not in keys:
                return job_id
        return ""

    def _finish(self, job_id: str, result: Message) -> None:
        job = self._jobs[job_id]
        job.results.append({**job.with_retries(result), "last": True})
        job.over = True
        self._changed.notify_all()

    def _forget(self, job_id: str) -> None:
        job = self._jobs.get(job_id)
        if job is not None:
            job.over = True
            job.results.clear()
        held = set(self._busy.values())
        for old in [
            i for i, j in self._jobs.items() if j.over and not j.results and i not in held
        ]:
            del self._jobs[old]

    def _is_open(self, job_id: str) -> bool:
        return job_id in self._jobs and not self._jobs[job_id].over

    def _unread(self, job_id: str) -> bool:
        return bool(self._jobs[job_id].results)

    async def _until(self, true: Callable[[], bool], timeout: float = BEAT_SECONDS) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait_for(true), timeout)
