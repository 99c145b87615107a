"""Clients of the job queue: the Tune actor of a trial, or the driver itself."""

from __future__ import annotations

import contextlib
import math
import time
import uuid
from dataclasses import asdict, replace
from typing import Any, cast, final

import ray
import ray.tune

from sweeps.config.budget import FailuresConfig
from sweeps.config.failure_kinds import FailureKind
from sweeps.execution.job_messages import Ending, Failed, Job, Lost, Result, TrialJob

POLL_SECONDS, LONGEST_POLL_SECONDS = 2.0, 30.0
"""How long one question to the queue waits for an answer: longer each time that none came."""

MAX_GROUPS = 2
"""How many groups one trial may lose before it counts as failed."""


@final
class GroupLostError(RuntimeError):
    """The workers of a job are gone or stopped responding."""

    def __init__(self, reason: str, kind: FailureKind = "infrastructure") -> None:
        super().__init__(reason)
        self.kind: FailureKind = kind


@final
class JobClient:
    """Runs one job at a time through a queue; a new job stops the previous one."""

    def __init__(self, queue: Any, silence_seconds: float) -> None:
        """``silence_seconds``: a job is lost after this time without a result."""
        self._queue, self._silence = queue, silence_seconds
        self._id, self._unread = "", False
        self.seconds_left = math.inf
        """How long jobs may still run; the wait for a group does not count."""

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self.drop()
        self._id = uuid.uuid4().hex
        ray.get(self._queue.submit.remote(self._id, job))

    def drop(self) -> None:
        """Stop the job if it has not ended."""
        if self._id:
            ray.get(self._queue.drop.remote(self._id))
        self._id, self._unread = "", False

    def next(self) -> Result:
        """The next result. A job's error is returned as a result.

        Raises:
            GroupLostError: the workers are gone, silent, or too slow.
        """
        if self._unread:  # asking for another result: the job may continue
            ray.get(self._queue.ack.remote(self._id))
            self._unread = False
        silent, poll = time.monotonic() + self._silence, POLL_SECONDS
        while (left := min(silent - (asked := time.monotonic()), self.seconds_left)) > 0:
            peeked = self._queue.peek.remote(self._id, min(poll, left))
            result: Result | Lost | None = ray.get(peeked)
            poll = min(2 * poll, LONGEST_POLL_SECONDS)
            if isinstance(result, Lost):
                raise GroupLostError(result.reason)
            if result is None and not ray.get(self._queue.is_held.remote(self._id)):
                silent = time.monotonic() + self._silence  # still queued, which may take long
                continue
            self.seconds_left -= time.monotonic() - asked
            if result is not None:
                self._unread = True
                return result
        stalls = self._kill_group()
        reason = f"no result for {self._silence:.0f} seconds"
        if self.seconds_left <= 0:
            reason = "it took longer than failures.trial_hours allows"
        raise GroupLostError(f"{reason}; {stalls}" if stalls else reason, "timeout")

    def last(self) -> Ending:
        """The last result; earlier ones are skipped. Raises the same errors as ``next``."""
        while not (result := self.next()).is_last():
            pass
        return cast(Ending, result.value)

    def _kill_group(self) -> str:
        """Kill a hanging group, which would block its slot; Train restarts its workers. Returns
        where its ranks stalled."""
        worker, stalls = ray.get(self._queue.evict.remote(self._id))
        if worker is not None:
            ray.kill(worker)
        return str(stalls)


TuneConfig = dict[str, TrialJob]
"""What Tune calls the configuration of a trial: its ``job``."""


class JobTrainable(ray.tune.Trainable):
    """Tune's view of a trial: each ``step`` returns the job's next result.

    See ``trainable_for``.
    """

    queue_name: str
    failures: FailuresConfig

    def setup(self, config: TuneConfig) -> None:
        """Take the first job."""
        self._client = JobClient(ray.get_actor(self.queue_name), self.failures.silence_seconds)
        self.reset_config(config)

    def reset_config(self, new_config: TuneConfig) -> bool:
        """Take the next job, in the same actor.

        The first step submits it. Tune may give a trial to a free actor while another one starts
        for it; that one never takes a step, and must not stop the job of the first.
        """
        self._job, self._groups, self._submitted = new_config["job"], 1, False
        self._causes: list[str] = []
        hours = self.failures.trial_hours
        self._client.seconds_left = math.inf if hours is None else 3600 * hours
        return True

    def step(self) -> dict[str, Any]:
        """The next result, as the mapping that Tune passes on; see `told_to_tune`."""
        if not self._submitted:
            self._client.submit(self._job)
            self._submitted = True
        result = self._next()
        causes, self._causes = [*self._causes, *result.retries], []
        return told_to_tune(replace(result, retries=tuple(causes)))

    def _next(self) -> Result:
        """A trial that lost its group resumes in another, from a checkpoint."""
        while True:
            try:
                result = self._client.next()
            except GroupLostError as error:
                if self._groups == MAX_GROUPS or self._client.seconds_left <= 0:
                    return Result(Failed(error.kind, str(error)))
                self._groups += 1
                self._causes.append(str(error))
                self._client.submit(self._job)
                continue
            is_oom = isinstance(result.value, Failed) and result.value.kind == "oom"
            halves = is_oom and self.failures.on_oom == "halve"
            smaller = self._job.halved() if halves else None
            if smaller is None:
                return result
            self._causes.append("out of memory; retrying with half the micro-batch")
            self._job = smaller
            self._client.submit(self._job)

    def cleanup(self) -> None:
        """Stop an open job; Tune calls this if the actor is not reused."""
        with contextlib.suppress(ray.exceptions.RayError):
            self._client.drop()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save: a trial's state is in its own folder and outlives the actor."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Nothing to load, as in ``save_checkpoint``."""


def told_to_tune(result: Result) -> dict[str, Any]:
    """A trial's result as a mapping, which Tune's searchers, schedulers and callbacks take."""
    told = asdict(cast(Any, result.value)) | {ray.tune.result.DONE: result.is_last()}
    told |= {"seconds": result.seconds} if result.seconds else {}
    return told | ({"retries": result.retries} if result.retries else {})


def trainable_for(queue_name: str, failures: FailuresConfig) -> type[JobTrainable]:
    """The Trainable class for one driver."""
    return type("GmtTrial", (JobTrainable,), {"queue_name": queue_name, "failures": failures})
