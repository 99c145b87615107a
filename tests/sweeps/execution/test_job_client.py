"""The client of the job queue: how it waits, and what it says of a job that does not answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sweeps.config.budget import FailuresConfig
from sweeps.execution import job_client
from sweeps.execution.job_client import GroupLostError, JobClient, trainable_for
from sweeps.execution.job_messages import Result
from sweeps.finetune.reporter import Check


class SilentQueue:
    """Answers after some long polls, which take as long as they may."""

    def __init__(self, answer_after: int, queued_until: float = 0.0) -> None:
        self.now, self.polls, self.jobs = 0.0, list[float](), list[object]()
        self._answer_after, self._queued_until = answer_after, queued_until

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(type(self), f"do_{name}").__get__(self))

    def do_submit(self, job_id: str, job: object) -> None:
        self.jobs.append(job)

    def do_peek(self, job_id: str, timeout: float) -> Result | None:
        self.now += timeout
        self.polls.append(timeout)
        return Result(Check(1, 2, 0.5)) if len(self.polls) > self._answer_after else None

    def do_is_held(self, job_id: str) -> bool:
        return self.now > self._queued_until

    def do_evict(self, job_id: str) -> tuple[None, str]:
        return None, "rank 1 stalls in sweeps.finetune.tokenized_data:7 (read)"


def client(queue: SilentQueue, monkeypatch: pytest.MonkeyPatch) -> JobClient:
    monkeypatch.setattr(job_client.ray, "get", lambda value: value)
    monkeypatch.setattr("time.monotonic", lambda: queue.now)
    made = JobClient(queue, silence_seconds=100.0)
    made.submit(None)  # type: ignore[arg-type]
    return made


def test_a_quiet_job_is_asked_for_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = SilentQueue(answer_after=5)
    assert client(queue, monkeypatch).next().value == Check(1, 2, 0.5)
    assert queue.polls == [2, 4, 8, 16, 30, 30]


def test_a_silent_job_ends_on_time_and_names_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = SilentQueue(answer_after=1000)
    with pytest.raises(
        GroupLostError, match=r"no result for 100 seconds; rank 1 stalls in"
    ) as lost:
        client(queue, monkeypatch).next()
    assert (queue.now, lost.value.kind) == (100.0, "timeout")


def test_the_limit_of_a_trial_leaves_out_its_wait_for_a_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = SilentQueue(answer_after=1000, queued_until=500.0)
    waiting = client(queue, monkeypatch)
    waiting.seconds_left = 50.0
    with pytest.raises(GroupLostError, match=r"longer than failures\.trial_hours allows"):
        waiting.next()
    assert queue.now == 480 + 50  # the poll in which it gets its group counts


def test_an_actor_without_a_step_stops_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune may start one for a trial that it has given to a free actor meanwhile."""
    queue = SilentQueue(answer_after=0)
    monkeypatch.setattr(job_client.ray, "get", lambda value: value)
    monkeypatch.setattr(job_client.ray, "get_actor", lambda name: queue)
    kind = trainable_for("queue", FailuresConfig(silence_seconds=100.0))
    used = kind({"job": "the trial before"})  # type: ignore[dict-item]
    used.reset_config({"job": "this trial"})  # type: ignore[dict-item]
    assert used.step()["step"] == 1
    kind({"job": "this trial"})  # type: ignore[dict-item]
    assert queue.jobs == ["this trial"]
