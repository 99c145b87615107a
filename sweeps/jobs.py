"""Whoever wants a job done by a worker group: the trial's Tune actor, or the driver itself."""

from __future__ import annotations

import contextlib
import time
import uuid
from typing import Any, final

import ray
import ray.tune

from sweeps.board import Message

POLL_SECONDS = 2.0
MOST_TRIES = 2
"""How many groups may be lost with one trial before it counts as failed."""


class GroupLostError(RuntimeError):
    """The workers that a job was with are gone, or fell silent."""


@final
class JobClient:
    """One job at a time on a board; a new one stops the one before."""

    def __init__(self, board: Any, silence_seconds: float) -> None:
        """``silence_seconds``: the longest time without a result before the job counts as lost."""
        self._board, self._silence = board, silence_seconds
        self._id, self._unread = "", False

    def submit(self, job: Message) -> None:
        """Queue a job, which has a ``key`` (see `sweeps.board.JobBoard`)."""
        self.drop()
        self._id = uuid.uuid4().hex
        ray.get(self._board.submit.remote({**job, "id": self._id}))

    def drop(self) -> None:
        """Stop the job, if it has not ended."""
        if self._id:
            ray.get(self._board.drop.remote(self._id))
        self._id, self._unread = "", False

    def next(self) -> Message:
        """The next result; ``last`` marks the last. An error of the job is a result like another.

        Raises:
            GroupLostError: the workers are gone, or silent for too long.
        """
        if self._unread:  # asked again, so the job is not to stop after the result before
            ray.get(self._board.taken.remote(self._id))
            self._unread = False
        end = time.monotonic() + self._silence
        while time.monotonic() < end:
            result: Message | None = ray.get(self._board.take.remote(self._id, POLL_SECONDS))
            if result is not None:
                return self._checked(result)
        raise GroupLostError(f"no result for {self._silence:.0f} seconds")

    def last(self) -> Message:
        """The last result; what comes before it is passed over. Raises as ``next``."""
        while not (result := self.next()).pop("last", False):
            pass
        return result

    def _checked(self, result: Message) -> Message:
        if "lost" in result:
            raise GroupLostError(result["lost"])
        self._unread = True
        if "error" in result:
            return {"state": "failed", "failure": result["error"], "last": True}
        return result


class JobTrainable(ray.tune.Trainable):
    """Tune's view of a trial: each ``step`` is its job's next result. See ``job_trainable``."""

    board_name: str
    silence_seconds: float

    def setup(self, config: Message) -> None:
        """Open the first job."""
        self._client = JobClient(ray.get_actor(self.board_name), self.silence_seconds)
        self.reset_config(config)

    def reset_config(self, new_config: Message) -> bool:
        """Open the next job, in the same actor."""
        self._job, self._tries = new_config, 1
        self._client.submit(new_config)
        return True

    def step(self) -> Message:
        """The next result; a trial that lost its group goes on in another, from its checkpoint."""
        result = self._next()
        return {**result, ray.tune.result.DONE: result.pop("last", False)}

    def _next(self) -> Message:
        while True:
            try:
                return self._client.next()
            except GroupLostError as error:
                if self._tries == MOST_TRIES:
                    return {"state": "failed", "failure": str(error), "last": True}
                self._tries += 1
                self._client.submit(self._job)

    def cleanup(self) -> None:
        """Stop what is still open; called by Tune when the actor is not reused."""
        with contextlib.suppress(ray.exceptions.RayError):
            self._client.drop()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a trial's state lies in its own folder and outlives the actor."""

    def load_checkpoint(self, checkpoint: Message | None) -> None:
        """Nothing, as ``save_checkpoint``."""


def job_trainable(board_name: str, silence_seconds: float) -> type[JobTrainable]:
    """The Trainable class of one session."""
    settings = {"board_name": board_name, "silence_seconds": silence_seconds}
    return type("GmtTrial", (JobTrainable,), settings)
