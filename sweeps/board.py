"""The board of a living worker group: one open job, and its results until Tune has read them.

Alone in its file, since the actor that holds it imports this module and little else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any, final

Message = dict[str, Any]
BEAT_SECONDS = 10.0
"""The longest rank 0 leaves its peers waiting in one broadcast."""


@final
class Board:
    """One open job and its unread results, one at most, so that a stopped job cannot run ahead."""

    def __init__(self, attempts: int) -> None:
        self._attempts = attempts
        self._job: Message | None = None
        self._results: deque[Message] = deque()
        self._attempt, self._seen, self._closed = 0, -1, False
        self._changed = asyncio.Condition()

    async def submit(self, job: Message) -> None:
        """Open a job; one that is still open is thereby stopped."""
        async with self._changed:
            self._job, self._attempt, self._seen = job, 0, -1
            self._results.clear()
            self._changed.notify_all()

    async def close(self) -> None:
        """Stop the open job and send the workers home."""
        async with self._changed:
            self._job, self._closed = None, True
            self._changed.notify_all()

    async def fetch(self) -> Message:
        """For rank 0: ``{"do": "run" | "wait" | "leave"}``."""
        async with self._changed:
            await self._until(lambda: self._closed or self._job is not None, BEAT_SECONDS)
            if self._closed or self._job is None:
                return {"do": "leave" if self._closed else "wait"}
            self._attempt += 1
            if self._attempt > self._attempts:
                self._finish({"error": f"the workers died {self._attempts} times in this trial"})
                return {"do": "wait"}
            return {"do": "run", **self._job}

    async def offer(self, job_id: str, result: Message) -> str:
        """For rank 0: hand over an intermediate result; "go", "stop", or "wait" (ask again)."""
        async with self._changed:
            # A restarted worker repeats the checks since its last save: Tune sees each step once.
            if self._is_open(job_id) and result["step"] > self._seen:
                self._seen = result["step"]
                self._results.append(result)
                self._changed.notify_all()
            await self._until(lambda: not self._is_open(job_id) or not self._results, BEAT_SECONDS)
            if not self._is_open(job_id):
                return "stop"
            return "wait" if self._results else "go"

    async def finish(self, job_id: str, result: Message) -> None:
        """For any rank: the job's last result or ``{"error": text}``."""
        async with self._changed:
            if self._is_open(job_id):
                self._finish(result)

    async def take(self, timeout: float) -> Message | None:
        """For the trial actor: the next result, or None after ``timeout`` seconds."""
        async with self._changed:
            await self._until(lambda: bool(self._results), timeout)
            return self._results[0] if self._results else None

    async def taken(self) -> None:
        """For the trial actor: Tune decided to go on after the result that was taken."""
        async with self._changed:
            if self._results:
                self._results.popleft()
            self._changed.notify_all()

    def _finish(self, result: Message) -> None:
        self._results.append({**result, "last": True})
        self._job = None
        self._changed.notify_all()

    def _is_open(self, job_id: str) -> bool:
        return self._job is not None and self._job["id"] == job_id

    async def _until(self, true: Callable[[], bool], timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait_for(true), timeout)
