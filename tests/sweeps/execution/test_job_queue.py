"""The job queue by itself: who gets which job, and what becomes of lost ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from ray.exceptions import RayActorError

from sweeps.execution import job_queue as module
from sweeps.execution.job_client import told_to_tune
from sweeps.execution.job_messages import Failed, Lost, MeasuringJob, Result, Run
from sweeps.execution.job_queue import JobQueue
from sweeps.execution.lost_attempts import NodeFaults, cause_of_death, stall_texts
from sweeps.finetune.reporter import Check, RunResult


async def submit(queue: JobQueue, job_id: str, key: str = "") -> None:
    await queue.submit(job_id, MeasuringJob(key or job_id, {}, 0))


async def ran(queue: JobQueue, group: str, *worker: Any, by: str = "") -> str:
    """The id of the job that a group gets."""
    order = await queue.fetch(group, *worker, by=by)
    assert isinstance(order, Run)
    return order.job_id


def check(step: int, score: float = 0.0) -> Check:
    return Check(step, 8, score)


def done(score: float) -> RunResult:
    return RunResult("finished", 8, 8, score)


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
        assert await queue.fetch("a") == "wait"
        await submit(queue, "1")
        await submit(queue, "2")
        assert await ran(queue, "a") == "1"
        assert await ran(queue, "b") == "2"
        assert await queue.fetch("c") == "wait"

    run(steps())


def test_a_result_waits_to_be_taken_before_the_job_goes_on() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await submit(queue, "1")
        await queue.fetch("a")
        assert await queue.peek("1", 0.01) is None
        assert await queue.report("1", check(1)) == "wait"
        assert await queue.peek("1", 1) == Result(check(1))
        assert await queue.report("1", check(1)) == "wait"
        await queue.ack("1")
        assert await queue.report("1", check(1)) == "go"  # a repetition is not shown again
        assert await queue.peek("1", 0.01) is None
        await queue.finish("1", done(0.5))
        assert await queue.peek("1", 1) == Result(done(0.5))

    run(steps())


def test_a_dropped_job_stops_at_its_next_offer() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await submit(queue, "1")
        await queue.fetch("a")
        await queue.drop("1")
        assert await queue.report("1", check(1)) == "stop"
        assert await queue.fetch("a") == "wait"

    run(steps())


def test_a_group_that_lost_its_workers_gets_its_job_again_a_few_times() -> None:
    async def steps() -> None:
        queue = JobQueue(2)
        await submit(queue, "1")
        assert [await ran(queue, "a") for _ in range(2)] == ["1", "1"]
        assert await queue.fetch("a") == "wait"
        result = await queue.peek("1", 1)
        assert result == Result(Failed("infrastructure", "the workers died 2 times in this trial"))
        await submit(queue, "2")
        assert await ran(queue, "a") == "2"

    run(steps())


def test_two_tries_of_one_trial_never_share_its_folder() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await submit(queue, "1", "trial")
        await queue.fetch("a")
        await submit(queue, "2", "trial")  # the actor of the first was lost
        await submit(queue, "3")
        assert await ran(queue, "b") == "3"
        assert await queue.fetch("c") == "wait"
        assert await queue.report("1", check(1)) == "stop"
        assert await ran(queue, "a") == "2"  # now its first group has let go

    run(steps())


def test_the_client_of_a_replaced_job_hears_of_it_at_once() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await submit(queue, "1", "trial")
        await queue.fetch("a")
        asking = asyncio.create_task(queue.peek("1", 60))
        await asyncio.sleep(0)
        await submit(queue, "2", "trial")
        assert isinstance(await asking, Lost)
        assert isinstance(await queue.peek("1", 60), Lost)

    run(steps())


def test_a_job_that_nobody_asks_for_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await submit(queue, "1")
        await queue.fetch("a")
        assert await queue.report("1", check(1)) == "wait"
        monkeypatch.setattr(module, "LEASE_SECONDS", 0.0)
        assert await queue.report("1", check(1)) == "stop"

    run(steps())


def test_an_isolated_group_leaves_after_one_job() -> None:
    async def steps() -> None:
        queue = JobQueue(3, recycle_after_seconds=0.0)
        await submit(queue, "1")
        await submit(queue, "2")
        assert await ran(queue, "a") == "1"
        assert await ran(queue, "a") == "1"  # its workers were restarted
        await queue.finish("1", done(0.5))
        assert await queue.fetch("a") == "leave"
        assert await ran(queue, "b") == "2"

    run(steps())


def test_a_lost_group_loses_its_job_and_no_other() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await submit(queue, "1")
        await submit(queue, "2")
        await queue.fetch("a")
        await queue.fetch("b")
        await queue.gone("a", "its node is gone")
        assert await queue.peek("1", 1) == Lost("its node is gone")
        assert await queue.peek("2", 0.01) is None

    run(steps())


def test_without_any_group_every_job_is_lost_now_and_later() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await submit(queue, "1")
        await queue.give_up("no workers start")
        await submit(queue, "2")
        for name in ("1", "2"):
            assert await queue.peek(name, 1) == Lost("no workers start")

    run(steps())


def test_a_closed_board_stops_jobs_and_sends_groups_home() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await submit(queue, "1")
        await queue.fetch("a")
        await queue.close()
        assert await queue.report("1", check(1)) == "stop"
        assert await queue.fetch("a") == "leave"

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
        await submit(queue, "1")
        assert await ran(queue, "a", worker) == "1"
        assert await queue.fetch("b", Worker()) == "wait"
        worker.died_of = died_of
        assert await queue.is_held("1")
        await until(lambda: "a" not in queue._busy)
        assert not await queue.is_held("1")
        assert queue._jobs["1"].attempt == attempts
        assert await ran(queue, "b", Worker()) == "1"
        assert await queue.fetch("a", Worker()) == "wait"  # started again, too late
        await queue.finish("1", done(0.5))
        causes = (f"worker process ? on ? is gone: {died_of}",)
        assert await queue.peek("1", 1) == Result(done(0.5), causes)

    run(steps())


def test_a_group_that_was_faster_keeps_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers were started again before the queue heard of the death of the old ones."""
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.01)

    async def steps() -> None:
        queue, old = JobQueue(3), Worker()
        await submit(queue, "1")
        await queue.fetch("a", old)
        old.died_of = "killed"
        assert await ran(queue, "a", Worker()) == "1"
        await asyncio.sleep(0.05)
        assert queue._busy == {"a": "1"}

    run(steps())


def test_workers_that_were_replaced_are_sent_home_and_not_heard() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await submit(queue, "1")
        await submit(queue, "2")
        assert await ran(queue, "a", by="old") == "1"
        assert await ran(queue, "a", by="new") == "1"
        assert await queue.report("1", check(1), "old") == "stop"
        await queue.finish("1", Failed("error", "a file is gone"), "old")
        assert await queue.peek("1", 0.01) is None
        assert await queue.fetch("a", by="old") == "leave"
        await queue.finish("1", done(1.0), "new")
        assert await queue.peek("1", 0.01) == Result(done(1.0))
        assert await ran(queue, "a", by="new") == "2"

    run(steps())


def test_workers_that_are_replaced_while_they_wait_get_no_job() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        waiting = asyncio.create_task(queue.fetch("a", by="old"))
        await asyncio.sleep(0)
        newer = asyncio.create_task(queue.fetch("a", by="new"))
        await asyncio.sleep(0)
        await submit(queue, "1")
        assert await waiting == "leave"
        order = await newer
        assert isinstance(order, Run) and order.job_id == "1"

    run(steps())


def test_why_an_attempt_was_lost_comes_with_the_next_result_once() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await submit(queue, "1")
        await queue.fetch("a")
        queue._jobs["1"].retries.append("a worker is gone: killed")
        await queue.report("1", check(1))
        assert await queue.peek("1", 1) == Result(check(1), ("a worker is gone: killed",))
        await queue.ack("1")
        await queue.finish("1", done(0.5))
        assert await queue.peek("1", 1) == Result(done(0.5))

    run(steps())


def test_a_group_starts_only_for_a_job_that_no_other_will_take() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await queue.starts("a")
        await submit(queue, "1")
        assert not await queue.needs("b", 0.01)  # the first one is on its way
        assert await ran(queue, "a", Worker()) == "1"
        assert not await queue.needs("b", 0.01)
        await submit(queue, "2")
        assert await queue.needs("b", 0.01)
        assert not await queue.needs("c", 0.01)
        assert await queue.waiting_for("b") == 1
        assert await ran(queue, "b", Worker()) == "2"
        assert await queue.waiting_for("b") == 0
        await queue.finish("2", done(0.5))
        assert await queue.fetch("b", Worker()) == "wait"
        await submit(queue, "3")
        assert not await queue.needs("c", 0.01)  # the second one is free

    run(steps())


def test_a_group_that_left_or_was_lost_no_longer_counts_as_free() -> None:
    async def steps() -> None:
        queue = JobQueue(3, recycle_after_seconds=0.0)
        await submit(queue, "1")
        assert await ran(queue, "a", Worker()) == "1"
        await queue.finish("1", done(0.5))
        await submit(queue, "2")
        assert await queue.fetch("a", Worker()) == "leave"
        assert await queue.needs("b", 0.01)
        await queue.gone("b", "it did not start")
        assert await queue.needs("c", 0.01)

    run(steps())


def test_a_failed_job_is_told_to_tune_as_the_last_result() -> None:
    told = told_to_tune(Result(Failed("oom", "too large"), ("a worker is gone",)))
    assert told["retries"] == ("a worker is gone",)
    assert (told["state"], told["kind"], told["failure"], told["done"]) == (
        "failed",
        "oom",
        "too large",
        True,
    )
    assert not told_to_tune(Result(check(1)))["done"]


RAYS_TEXT = """The actor died unexpectedly before finishing this task.
	class_name: RayTrainWorker
	actor_id: 6a7f
	pid: 4242
	ip: 10.0.0.7
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit \
detail: Worker unexpectedly exits with a connection error code 2. End of file. Some common causes \
include: (1) the process was killed by the OOM killer due to high memory usage."""


def test_the_cause_of_a_lost_attempt_names_process_and_machine() -> None:
    assert cause_of_death(RAYS_TEXT) == (
        "worker process 4242 on 10.0.0.7 is gone: Worker unexpectedly exits with a connection "
        "error code 2. End of file"
    )


def test_workers_that_outlive_their_group_get_no_job_and_do_not_count_as_free() -> None:
    """After a killed controller they ask once more, and then end with it."""

    async def steps() -> None:
        queue = JobQueue(3)
        await submit(queue, "1")
        assert await ran(queue, "a", Worker()) == "1"
        await queue.finish("1", done(0.5))
        await queue.gone("a", "its controller was killed")
        assert await queue.fetch("a", Worker()) == "leave"
        await submit(queue, "2")
        assert await queue.fetch("a", Worker()) == "leave"
        assert await queue.needs("b", 0.01)
        assert await ran(queue, "b", Worker()) == "2"

    run(steps())


def test_a_job_that_met_a_fault_of_hardware_goes_to_another_group_with_its_cause() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await submit(queue, "1")
        assert await ran(queue, "a", Worker(), by="old") == "1"
        await queue.interrupt("1", "rank 1: uncorrectable ECC error", "another", node="node")
        assert await queue.faulty_nodes() == []  # it no longer speaks for the group
        await queue.interrupt("1", "rank 0: NCCL error", "old")
        await queue.interrupt("1", "rank 1: uncorrectable ECC error", "old", node="node")
        await queue.interrupt("1", "rank 2: NCCL error", "old")
        assert await queue.faulty_nodes() == ["node"]
        assert await queue.needs("b", 0.01)
        assert await queue.fetch("a", Worker(), by="new") == "leave"
        assert await ran(queue, "b", Worker()) == "1"
        await queue.finish("1", done(0.5))
        causes = ("rank 1: uncorrectable ECC error",)
        assert await queue.peek("1", 1) == Result(done(0.5), causes)

    run(steps())


def test_after_a_broken_link_the_same_group_tries_again_and_gives_up_with_the_cause() -> None:
    async def steps() -> None:
        queue = JobQueue(2)
        await submit(queue, "1")
        for by in ("first", "second"):
            assert await ran(queue, "a", Worker(), by=by) == "1"
            await queue.stalls("1", 1, "data.py:3 (read)", by)
            await queue.interrupt("1", "rank 0: the collective timed out", by)
        assert await queue.fetch("a", Worker(), by="third") == "wait"
        assert await queue.faulty_nodes() == []
        cause = "rank 0: the collective timed out; rank 1 stalls in data.py:3 (read)"
        text = f"the workers died 2 times in this trial; last: {cause}"
        expected = Result(Failed("infrastructure", text), (cause, cause))
        assert await queue.peek("1", 1) == expected

    run(steps())


def test_a_hanging_job_says_which_rank_the_others_wait_for() -> None:
    async def steps() -> None:
        queue, worker = JobQueue(3), Worker()
        await submit(queue, "1")
        await queue.fetch("a", worker, by="set")
        for rank in (0, 2, 1):
            place = "data.py:3 (read)" if rank == 1 else "trainer.py:7 (update)"
            await queue.stalls("1", rank, place, "set")
        told = "rank 1 stalls in data.py:3 (read); rank 0, 2 stalls in trainer.py:7 (update)"
        assert await queue.evict("1") == (worker, told)

    run(steps())


def test_a_result_ends_what_was_a_stall() -> None:
    async def steps() -> None:
        queue = JobQueue(3)
        await submit(queue, "1")
        await queue.fetch("a")
        await queue.stalls("1", 0, "loop.py:3 (update)")
        await queue.report("1", check(1))
        assert await queue.evict("1") == (None, "")

    run(steps())


def test_a_node_is_avoided_for_a_while_and_after_faults_in_two_jobs_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    faults = NodeFaults()
    faults.add("a", "1")
    faults.add("a", "1")
    faults.add("b", "1")
    faults.add("b", "2")
    assert faults.avoided() == ["a", "b"]
    now = 601.0
    assert faults.avoided() == ["b"]


def test_the_place_of_the_fewest_ranks_comes_first() -> None:
    assert stall_texts({0: ""}) == []
    assert stall_texts({0: "x", 1: "x", 2: "y"})[0] == "rank 2 stalls in y"
