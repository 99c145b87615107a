"""The job queue by itself: who gets which job, and what becomes of lost ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from ray.exceptions import RayActorError

from sweeps.config.failures import failed
from sweeps.execution import job_queue as module
from sweeps.execution.job_queue import JobQueue, Message


def job(name: str, key: str | None = None) -> Message:
    return {"id": name, "key": key or name}


@pytest.fixture(autouse=True)
def short_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.02)
    until = JobQueue._until

    async def quick(self: JobQueue, true: Callable[[], bool], timeout: float = 0.02) -> None:
        await until(self, true, min(timeout, 0.02))

    monkeypatch.setattr(JobQueue, "_until", quick)


def run(steps: Coroutine[Any, Any, None]) -> None:
    asyncio.run(steps)


def test_jobs_are_handed_out_once_each_in_order() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        assert await queue.fetch("a") == {"do": "wait"}
        await queue.submit(job("1"))
        await queue.submit(job("2"))
        assert (await queue.fetch("a"))["id"] == "1"
        assert (await queue.fetch("b"))["id"] == "2"
        assert await queue.fetch("c") == {"do": "wait"}

    run(steps())


def test_a_result_waits_to_be_taken_before_the_job_goes_on() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await queue.submit(job("1"))
        await queue.fetch("a")
        assert await queue.peek("1", 0.01) is None
        assert await queue.report("1", {"step": 1}) == "wait"
        assert await queue.peek("1", 1) == {"step": 1}
        assert await queue.report("1", {"step": 1}) == "wait"
        await queue.ack("1")
        assert await queue.report("1", {"step": 1}) == "go"  # a repetition is not shown again
        assert await queue.peek("1", 0.01) is None
        await queue.finish("1", {"score": 0.5})
        assert await queue.peek("1", 1) == {"score": 0.5, "last": True}

    run(steps())


def test_a_dropped_job_stops_at_its_next_offer() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await queue.submit(job("1"))
        await queue.fetch("a")
        await queue.drop("1")
        assert await queue.report("1", {"step": 1}) == "stop"
        assert await queue.fetch("a") == {"do": "wait"}

    run(steps())


def test_a_group_that_lost_its_workers_gets_its_job_again_a_few_times() -> None:
    async def steps() -> None:
        queue = JobQueue(2)
        await queue.submit(job("1"))
        assert [(await queue.fetch("a"))["do"] for _ in range(3)] == ["run", "run", "wait"]
        result = await queue.peek("1", 1)
        assert result == failed("infrastructure", "the workers died 2 times in this trial")
        await queue.submit(job("2"))
        assert (await queue.fetch("a"))["id"] == "2"

    run(steps())


def test_two_tries_of_one_trial_never_share_its_folder() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await queue.submit(job("1", key="trial"))
        await queue.fetch("a")
        await queue.submit(job("2", key="trial"))  # the actor of the first was lost
        await queue.submit(job("3"))
        assert (await queue.fetch("b"))["id"] == "3"
        assert await queue.fetch("c") == {"do": "wait"}
        assert await queue.report("1", {"step": 1}) == "stop"
        assert (await queue.fetch("a"))["id"] == "2"  # now its first group has let go

    run(steps())


def test_a_job_that_nobody_asks_for_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await queue.submit(job("1"))
        await queue.fetch("a")
        assert await queue.report("1", {"step": 1}) == "wait"
        monkeypatch.setattr(module, "LEASE_SECONDS", 0.0)
        assert await queue.report("1", {"step": 1}) == "stop"

    run(steps())


def test_an_isolated_group_leaves_after_one_job() -> None:
    async def steps() -> None:
        queue = JobQueue(3, recycle_after_seconds=0.0)
        await queue.submit(job("1"))
        await queue.submit(job("2"))
        assert (await queue.fetch("a"))["id"] == "1"
        assert (await queue.fetch("a"))["id"] == "1"  # its workers were restarted
        await queue.finish("1", {})
        assert await queue.fetch("a") == {"do": "leave"}
        assert (await queue.fetch("b"))["id"] == "2"

    run(steps())


def test_a_lost_group_loses_its_job_and_no_other() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await queue.submit(job("1"))
        await queue.submit(job("2"))
        await queue.fetch("a")
        await queue.fetch("b")
        await queue.gone("a", "its node is gone")
        assert await queue.peek("1", 1) == {"lost": "its node is gone", "last": True}
        assert await queue.peek("2", 0.01) is None

    run(steps())


def test_without_any_group_every_job_is_lost_now_and_later() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await queue.submit(job("1"))
        await queue.give_up("no workers start")
        await queue.submit(job("2"))
        for name in ("1", "2"):
            assert await queue.peek(name, 1) == {"lost": "no workers start", "last": True}

    run(steps())


def test_a_closed_board_stops_jobs_and_sends_groups_home() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await queue.submit(job("1"))
        await queue.fetch("a")
        await queue.close()
        assert await queue.report("1", {"step": 1}) == "stop"
        assert await queue.fetch("a") == {"do": "leave"}

    run(steps())


class DiedError(RayActorError):
    """As Ray tells it of an actor."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text


class Worker:
    """Rank 0 as the queue asks it: alive until it has died of something."""

    def __init__(self) -> None:
        self.died_of: str | None = None

    @property
    def __ray_ready__(self) -> Worker:
        return self

    async def remote(self) -> None:
        if self.died_of is not None:
            raise DiedError(self.died_of)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("died_of", "attempts"), [("The actor died because its node has died.", 0), ("killed", 1)]
)
def test_another_group_goes_on_with_what_a_dead_worker_had(
    died_of: str, attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group itself waits for room, which a lost machine leaves none of. That the machine was
    lost is no failed attempt of the job."""
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.01)

    async def steps() -> None:
        queue, worker = JobQueue(3), Worker()
        await queue.submit(job("1"))
        assert (await queue.fetch("a", worker))["id"] == "1"
        assert await queue.fetch("b", Worker()) == {"do": "wait"}
        worker.died_of = died_of
        assert await queue.is_held("1")
        await until(lambda: "a" not in queue._busy)
        assert not await queue.is_held("1")
        assert queue._jobs["1"].attempt == attempts
        assert (await queue.fetch("b", Worker()))["id"] == "1"
        assert await queue.fetch("a", Worker()) == {"do": "wait"}  # started again, too late
        await queue.finish("1", {"score": 0.5})
        result = await queue.peek("1", 1)
        assert result is not None
        assert result.pop("retries") == [f"a worker is gone: {died_of}"]
        assert result == {"score": 0.5, "last": True}

    run(steps())


def test_a_group_that_was_faster_keeps_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers were started again before the queue heard of the death of the old ones."""
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.01)

    async def steps() -> None:
        queue, old = JobQueue(3), Worker()
        await queue.submit(job("1"))
        await queue.fetch("a", old)
        old.died_of = "killed"
        assert (await queue.fetch("a", Worker()))["id"] == "1"
        await asyncio.sleep(0.05)
        assert queue._busy == {"a": "1"}

    run(steps())


def test_workers_that_were_replaced_are_sent_home_and_not_heard() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await queue.submit(job("1"))
        await queue.submit(job("2"))
        assert (await queue.fetch("a", by="old"))["id"] == "1"
        assert (await queue.fetch("a", by="new"))["id"] == "1"
        assert await queue.report("1", {"step": 1, "score": 0.0}, "old") == "stop"
        await queue.finish("1", {"failure": "a file is gone"}, "old")
        assert await queue.peek("1", 0.01) is None
        assert await queue.fetch("a", by="old") == {"do": "leave"}
        await queue.finish("1", {"score": 1.0}, "new")
        assert await queue.peek("1", 0.01) == {"score": 1.0, "last": True}
        assert (await queue.fetch("a", by="new"))["id"] == "2"

    run(steps())


def test_workers_that_are_replaced_while_they_wait_get_no_job() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        waiting = asyncio.create_task(queue.fetch("a", by="old"))
        await asyncio.sleep(0)
        newer = asyncio.create_task(queue.fetch("a", by="new"))
        await asyncio.sleep(0)
        await queue.submit(job("1"))
        assert await waiting == {"do": "leave"}
        assert (await newer)["id"] == "1"

    run(steps())


def test_why_an_attempt_was_lost_comes_with_the_next_result_once() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await queue.submit(job("1"))
        await queue.fetch("a")
        queue._jobs["1"].retries.append("a worker is gone: killed")
        await queue.report("1", {"step": 1})
        assert await queue.peek("1", 1) == {"step": 1, "retries": ["a worker is gone: killed"]}
        await queue.ack("1")
        await queue.finish("1", {"state": "finished"})
        assert await queue.peek("1", 1) == {"state": "finished", "last": True}

    run(steps())
