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

from sweeps.execution.job_messages import Answer, Ending, Failed, Job, Lost, Order, Result, Run
from sweeps.execution.lost_attempts import NodeFaults, cause_of_death, stall_texts
from sweeps.finetune.reporter import Check

BEAT_SECONDS = 10.0
"""The longest that rank 0 keeps its peers waiting in one broadcast."""

WATCH_SECONDS = 2.0
"""How often a group's rank 0 is checked for being alive."""

LEASE_SECONDS = 300.0
"""A job is stopped if nobody has asked for its results for this long: its client is gone."""


@dataclass
class _Entry:
    """A job in the queue. ``holder``: the set of workers that runs it, or has ``interrupted`` it.
    ``began``: when workers first had it. ``stalls``: by rank, where a worker has been for long."""

    job: Job
    attempt: int = 0
    began: float = 0.0
    holder: str = ""
    seen: int = -1
    over: bool = False
    interrupted: bool = False
    stalls: dict[int, str] = field(default_factory=dict)
    results: deque[Result | Lost] = field(default_factory=deque)
    retries: list[str] = field(default_factory=list)
    asked: float = field(default_factory=time.monotonic)

    def add(self, value: Check | Ending) -> None:
        """Append a result, with the causes of the attempts lost before it."""
        self.results.append(Result(value, tuple(self.retries), time.monotonic() - self.began))
        self.retries = []


@final
class JobQueue:
    """Gives each job to one group, and holds at most one unread result so that jobs can stop.

    Jobs with the same key work in the same folder: a new one stops the old one and waits until its
    group has released it.
    """

    def __init__(self, attempts: int, recycle_after_seconds: float = math.inf) -> None:
        """``attempts``: how often a job may lose its workers. A group leaves after a job that took
        ``recycle_after_seconds`` or more."""
        self._attempts, self._recycle_after = attempts, recycle_after_seconds
        self._jobs: dict[str, _Entry] = {}  # by job id, in order of submission
        self._busy: dict[str, str] = {}  # group to the id of the job it has not released
        self._since: dict[str, float] = {}  # group to the start of that job
        self._workers: dict[str, Any] = {}  # group to its rank 0
        self._sets: dict[str, list[str]] = {}  # group to its sets of workers, latest last
        self._starting: set[str] = set()  # groups that have not asked for a job yet
        self._gone: set[str] = set()  # groups that end; their workers may outlive them
        self._faults = NodeFaults()
        self._watches: set[asyncio.Task[None]] = set()
        self._closed, self._broken = False, ""
        self._changed = asyncio.Condition()

    async def submit(self, job_id: str, job: Job) -> None:
        """Queue a job under a unique id; this stops an open job with the same key."""
        async with self._changed:
            for other in self._jobs.values():
                if other.job.key == job.key:
                    other.over = True
            self._jobs[job_id] = _Entry(job)
            if self._broken:
                self._lose(job_id, self._broken)
            self._changed.notify_all()

    async def drop(self, job_id: str) -> None:
        """Stop a job if it is still open, and forget its results."""
        async with self._changed:
            self._forget(job_id)
            self._changed.notify_all()

    async def peek(self, job_id: str, timeout: float) -> Result | Lost | None:
        """For the client: the job's next result, or None after ``timeout`` seconds."""
        async with self._changed:
            entry = self._jobs.get(job_id)
            if entry is not None:
                entry.asked = time.monotonic()
                await self._until(lambda: entry.over or bool(entry.results), timeout)
                entry.asked = time.monotonic()
            if entry is None or (entry.over and not entry.results):
                return Lost("another attempt of the same trial replaced it")
            return entry.results[0] if entry.results else None

    async def is_held(self, job_id: str) -> bool:
        """Whether a group works on the job; otherwise it is waiting for one."""
        return job_id in self._busy.values()

    async def ack(self, job_id: str) -> None:
        """For the client: remove the result that was read and let the job continue."""
        async with self._changed:
            entry = self._jobs.get(job_id)
            if entry is not None and entry.results:
                entry.results.popleft()
            self._changed.notify_all()

    async def starts(self, group: str) -> None:
        """A group is being started before its first job is here."""
        self._starting.add(group)

    async def needs(self, group: str, timeout: float) -> bool:
        """Whether a further group has a job to run; waits up to ``timeout`` seconds for one.

        True counts ``group`` as starting, so that no two groups start for the same job.
        """
        async with self._changed:
            await self._until(self._lacks_groups, timeout)
            if needed := self._lacks_groups():
                self._starting.add(group)
            return needed

    async def waiting_for(self, group: str) -> int:
        """How many jobs wait while ``group`` has not started; 0 once it has."""
        return len(self._waiting()) if group in self._starting else 0

    async def fetch(self, group: str, worker: Any = None, by: str = "") -> Order:
        """For rank 0 of a group, the actor ``worker``: what the group does next.

        ``by``: the name of its set of workers. Train replaces workers that it considers lost, but
        they may still be alive. The replaced workers are told to leave, and their results are
        ignored.
        """
        async with self._changed:
            if self._is_replaced(group, by):
                return "leave"
            self._workers[group] = worker
            self._starting.discard(group)
            job_id = self._busy.pop(group, "")
            if not self._is_open(job_id):  # otherwise its workers were restarted within a job
                if job_id and time.monotonic() - self._since[group] >= self._recycle_after:
                    self._workers.pop(group)
                    return "leave"
                self._changed.notify_all()  # jobs that waited for this folder may start
                await self._until(lambda: self._closed or bool(self._waiting()), BEAT_SECONDS)
                job_id = next(iter(self._waiting()), "")
            if self._closed or self._is_replaced(group, by):
                return "leave"
            return self._hand_out(job_id, group, worker, by) if job_id else "wait"

    def _hand_out(self, job_id: str, group: str, worker: Any, by: str) -> Order:
        entry = self._jobs[job_id]
        entry.attempt += 1
        if entry.attempt > self._attempts:
            text = f"the workers died {self._attempts} times in this trial"
            text += f"; last: {entry.retries[-1]}" if entry.retries else ""
            self._end(job_id, Failed("infrastructure", text))
            return "wait"
        entry.holder, entry.interrupted, entry.stalls = by, False, {}
        self._busy[group] = job_id
        self._since[group] = time.monotonic()
        entry.began = entry.began or self._since[group]
        if worker is not None:
            watch = asyncio.create_task(self._watch(group, worker, job_id))
            self._watches.add(watch)  # keeps it from being garbage collected
            watch.add_done_callback(self._watches.discard)
        return Run(job_id, entry.job)

    async def _watch(self, group: str, worker: Any, job_id: str) -> None:
        """Requeue a job whose worker is dead, so that another group can continue it.

        Its own group may wait long for resources to replace a lost machine. Losing a machine does
        not count as a failed attempt of the job.
        """
        import ray

        ready, entry = worker.__ray_ready__, self._jobs[job_id]
        while self._busy.get(group) == job_id and self._workers.get(group) is worker:
            try:
                await ready.remote()
            except ray.exceptions.ActorUnavailableError:
                pass  # it may come back; Ray reports a dead machine within half a minute
            except ray.exceptions.RayActorError as error:
                async with self._changed:
                    if self._workers.get(group) is worker:
                        self._busy.pop(group, None)
                        self._workers.pop(group)
                        entry.attempt -= "node has died" in str(error)
                        if not entry.interrupted:
                            said = [cause_of_death(str(error)), *stall_texts(entry.stalls)]
                            entry.retries.append("; ".join(said))
                        self._changed.notify_all()
                return
            await asyncio.sleep(WATCH_SECONDS)

    async def report(self, job_id: str, check: Check, by: str = "") -> Answer:
        """For rank 0: submit an intermediate result; returns whether the job continues."""
        async with self._changed:
            entry = self._jobs.get(job_id)
            if entry is not None and entry.holder != by:
                return "stop"
            # A restarted worker repeats the checks since its last checkpoint; count each once.
            if entry is not None and not entry.over and check.step > entry.seen:
                entry.seen, entry.stalls = check.step, {}
                entry.add(check)
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

    async def interrupt(self, job_id: str, cause: str, by: str = "", node: str = "") -> None:
        """For any rank: its attempt ends for this reason, and another follows; in another group
        if the hardware of ``node`` failed."""
        async with self._changed:
            entry = self._jobs.get(job_id)
            group = next((g for g, busy in self._busy.items() if busy == job_id), "")
            if entry is None or not group or entry.holder != by or entry.interrupted > bool(node):
                return
            if entry.interrupted:  # by a peer, which spoke of what this rank caused
                entry.retries.pop()
            entry.interrupted = True
            entry.retries.append("; ".join([cause, *stall_texts(entry.stalls)]))
            if node:
                self._faults.add(node, entry.job.key)
                self._gone.add(group)
                self._workers.pop(group, None)
                del self._busy[group]
            self._changed.notify_all()

    async def blame(self, node: str) -> None:
        """A group could not start because of the hardware of this node."""
        self._faults.add(node)

    async def faulty_nodes(self) -> list[str]:
        """The nodes that new groups avoid."""
        return self._faults.avoided()

    async def stalls(self, job_id: str, rank: int, place: str, by: str = "") -> None:
        """For any rank: it has been at this line of code for long; empty: it moves again."""
        if self._is_open(job_id) and self._jobs[job_id].holder == by:
            self._jobs[job_id].stalls[rank] = place

    async def finish(self, job_id: str, value: Ending, by: str = "") -> None:
        """For any rank: submit the job's last result."""
        async with self._changed:
            if self._is_open(job_id) and self._jobs[job_id].holder == by:
                self._end(job_id, value)

    async def evict(self, job_id: str) -> tuple[Any, str]:
        """Drop a job that its group does not release; returns that group's rank 0, to kill, or
        None, and where its ranks stall."""
        async with self._changed:
            stalls = self._jobs[job_id].stalls if job_id in self._jobs else {}
            self._forget(job_id)
            self._changed.notify_all()
            held = next((group for group, busy in self._busy.items() if busy == job_id), "")
            return self._workers.get(held), "; ".join(stall_texts(stalls))

    async def gone(self, group: str, reason: str) -> None:
        """A group has ended; its open job is lost for this reason."""
        async with self._changed:
            self._gone.add(group)
            self._starting.discard(group)
            self._workers.pop(group, None)
            self._lose(self._busy.pop(group, ""), reason)
            self._changed.notify_all()

    async def give_up(self, reason: str) -> None:
        """No groups are left: all present and future jobs are lost."""
        async with self._changed:
            self._broken = reason
            for job_id in list(self._jobs):
                self._lose(job_id, reason)

    async def close(self) -> None:
        """Stop the open jobs and tell the workers to leave."""
        async with self._changed:
            for entry in self._jobs.values():
                entry.over = True
            self._closed = True
            self._changed.notify_all()

    def _is_replaced(self, group: str, by: str) -> bool:
        """Whether the group has ended, or a newer set of workers has joined it."""
        known = self._sets.setdefault(group, [])
        if by not in known:
            known.append(by)
        return group in self._gone or known[-1] != by

    def _waiting(self) -> list[str]:
        """The jobs that no group has and whose folder is not in use, first submitted first."""
        held = set(self._busy.values())
        keys = {self._jobs[i].job.key for i in held if i in self._jobs}
        return [
            job_id
            for job_id, entry in self._jobs.items()
            if not entry.over and job_id not in held and entry.job.key not in keys
        ]

    def _lacks_groups(self) -> bool:
        """Whether more jobs wait than groups that are free or starting."""
        idle = len(self._workers.keys() - self._busy.keys())
        return len(self._waiting()) > idle + len(self._starting)

    def _end(self, job_id: str, value: Ending) -> None:
        self._jobs[job_id].add(value)
        self._jobs[job_id].over = True
        self._changed.notify_all()

    def _lose(self, job_id: str, reason: str) -> None:
        if self._is_open(job_id):
            self._jobs[job_id].results.append(Lost(reason))
            self._jobs[job_id].over = True
            self._changed.notify_all()

    def _forget(self, job_id: str) -> None:
        if (entry := self._jobs.get(job_id)) is not None:
            entry.over = True
            entry.results.clear()
        held = set(self._busy.values())
        over = [i for i, e in self._jobs.items() if e.over and not e.results and i not in held]
        for old in over:
            del self._jobs[old]

    def _is_open(self, job_id: str) -> bool:
        return job_id in self._jobs and not self._jobs[job_id].over

    def _unread(self, job_id: str) -> bool:
        return bool(self._jobs[job_id].results)

    async def _until(self, true: Callable[[], bool], timeout: float = BEAT_SECONDS) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait_for(true), timeout)
