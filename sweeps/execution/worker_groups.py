"""Groups of Ray Train workers that are reused across trials, stages and studies.

Starting a `TorchTrainer` takes many seconds, and a small trial takes only a few. The driver
therefore keeps as many trainers as trials may run at once, and gives their workers one job after
another:

    driver: WorkerGroups
      |- owns   JobQueue: the open jobs and their unread results
      '- thread per group: TorchTrainer.fit() -> controller -> N workers in `worker_loop`
    Tune trial actor (see `sweeps.execution.job_client`): submits a job, reads its results

Rank 0 of a group fetches a job from the queue, and every rank runs it. At each validation check
rank 0 reports the result, and all ranks learn whether to continue. If the driver dies, all of
these end.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import ray
import ray.train
from ray.train.torch import TorchTrainer

from sweeps.config.failure_kinds import blames_node, cause, is_of_device, kind_of
from sweeps.execution.cluster import places
from sweeps.execution.driver_log import LOG
from sweeps.execution.job_client import MAX_GROUPS, POLL_SECONDS, GroupLostError, JobClient
from sweeps.execution.job_messages import Answer, Ending, Failed, Job, Order, Run
from sweeps.execution.job_queue import JobQueue
from sweeps.execution.ray_compat import HEAD_SHARE, has_autoscaler
from sweeps.execution.remote_job import RunJob
from sweeps.execution.rendezvous import torch_config
from sweeps.execution.stalls import noting_stalls
from sweeps.execution.train_compat import TrainerWithoutDatasets
from sweeps.finetune.hub import HubToken
from sweeps.finetune.reporter import Check
from sweeps.storage.outages import repeated

STEADY_SECONDS = 300.0
"""A group that lived this long was not lost for a reason that would also hit the next one."""

MOST_FAILURES = 3
"""How many groups in a row may be lost before the slot is given up."""

BACK_OFF_SECONDS = 2.0
"""The wait before replacing a lost group; doubled each time."""

MOST_CALLS = 10_000
"""How many calls the queue holds at once: a client's and a group's long one for each trial."""

NODE_LABEL = "ray.io/node-id"
"""The label by which Ray selects nodes."""

ROOM_SECONDS = 60.0
"""How often the log says that a group has no room to start."""


@final
@dataclass(frozen=True)
class GroupSpec:
    """How a group is built.

    `storage`: a folder that all nodes share. `restarts`: how often a job may lose its workers. A
    group leaves after a job of `recycle_after_seconds` or more: 0 gives each job fresh processes.
    """

    run_job: RunJob
    scaling: ray.train.ScalingConfig
    storage: str
    recycle_after_seconds: float = math.inf
    restarts: int = 3


def worker_loop(settings: dict[str, Any]) -> None:
    """The training function of a group: fetch and run jobs until told to leave."""
    import torch.distributed as dist

    queue, run_job, group = settings["queue"], settings["run_job"], settings["group"]
    settings["token"].use()
    rank = ray.train.get_context().get_world_rank()
    worker = ray.get_runtime_context().current_actor
    control = dist.new_group(backend="gloo")  # not on the GPU, and separate from DDP's collectives
    memory: dict[str, Any] = {}
    names = [uuid.uuid4().hex]
    dist.broadcast_object_list(names, src=0, group=control)
    by = names[0]

    def agree(ask: Callable[[], Any]) -> Any:
        """Rank 0 asks the queue; every rank gets the answer."""
        box = [ray.get(ask()) if rank == 0 else None]
        dist.broadcast_object_list(box, src=0, group=control)
        return box[0]

    while True:
        order: Order = agree(lambda: queue.fetch.remote(group, worker, by))
        if order == "leave":
            return
        if isinstance(order, Run):
            _run_one(order, run_job, queue, agree, memory, rank, by)


def _run_one(
    order: Run,
    run_job: RunJob,
    queue: Any,
    agree: Callable[[Callable[[], Any]], Any],
    memory: dict[str, Any],
    rank: int,
    by: str,
) -> None:
    def report(check: Check) -> bool:
        answer: Answer = "wait"
        while answer == "wait":
            answer = agree(lambda: queue.report.remote(order.job_id, check, by))
        return answer == "go"

    def note(place: str) -> None:
        queue.stalls.remote(order.job_id, rank, place, by)

    try:
        with noting_stalls(note):
            last = run_job(order.job, report, memory)
    except Exception as error:
        said, kind = f"{type(error).__name__}: {error}", kind_of(error)
        # A dead peer shows up as a failing collective. Train restarts it; the job has not failed.
        is_lost = is_of_device(error) or _is_timeout(error)
        if is_lost or (kind != "oom" and _is_lost_peer(error)):
            if is_lost:
                here = ray.get_runtime_context().get_node_id()
                told = f"rank {rank} on {ray.util.get_node_ip_address()}: {cause(said)}"
                node = here if blames_node(error) else ""
                ray.get(queue.interrupt.remote(order.job_id, told, by, node))
        else:
            text = f"{said}\n{traceback.format_exc()}"
            ray.get(queue.finish.remote(order.job_id, Failed(kind, text), by))
        raise
    if rank == 0 and last is not None:
        ray.get(queue.finish.remote(order.job_id, last, by))


def _is_lost_peer(error: Exception) -> bool:
    import torch.distributed as dist

    is_gloo = "gloo" in (text := str(error).lower()) and "connection" in text
    return isinstance(error, dist.DistError) or is_gloo or _is_timeout(error)


def _is_timeout(error: Exception) -> bool:
    """Whether a collective waited too long for another rank."""
    text = str(error).lower()
    return ("gloo" in text or "nccl" in text) and ("timed out" in text or "timeout" in text)


def result_of(client: JobClient, job: Job) -> Ending:
    """The last result of a submitted job, retried if it loses its group."""
    for _ in range(MAX_GROUPS - 1):
        with contextlib.suppress(GroupLostError):
            return client.last()
        client.submit(job)
    try:
        return client.last()
    except GroupLostError as error:
        return Failed(error.kind, str(error))


def no_room(waiting: int, scaling: ray.train.ScalingConfig) -> str:
    """The sentence that says how many jobs wait, what one needs, and what the cluster has."""
    total, free = ray.cluster_resources(), ray.available_resources()
    needed = scaling.resources_per_worker or {}
    there = ", ".join(
        f"{total.get(name, 0):g} {name} of which {free.get(name, 0):g} free" for name in needed
    )
    each = ", ".join(f"{amount:g} {name}" for name, amount in needed.items())
    trials = "1 trial waits" if waiting == 1 else f"{waiting} trials wait"
    return (
        f"{trials} for resources: each needs {scaling.num_workers} workers with {each} each; the "
        f"cluster has {there}"
    )


def avoiding(scaling: ray.train.ScalingConfig, faulty: Sequence[str]) -> ray.train.ScalingConfig:
    """``scaling`` off the nodes with faults, unless the others have no room for a group."""
    needed = scaling.resources_per_worker or {}
    others = [n["Resources"] for n in ray.nodes() if n["Alive"] and n["NodeID"] not in faulty]
    room = sum(places(there, needed) for there in others)
    if not faulty or (room < scaling.num_workers and not has_autoscaler()):
        return scaling
    LOG.warning("new worker groups avoid %s, where hardware failed", ", ".join(faulty))
    return replace(scaling, label_selector={NODE_LABEL: f"!in({','.join(faulty)})"})


def _new_name() -> str:
    return f"group-{uuid.uuid4().hex[:8]}"


@final
class WorkerGroups:
    """The worker groups of a driver, at most `count`; a context manager. ``is_warm``: whether some
    have run trials."""

    def __init__(self, spec: GroupSpec, count: int) -> None:
        self._spec, self.count, self._living, self.is_warm = spec, count, 0, False
        self.name = f"gmt-queue-{uuid.uuid4().hex[:8]}"
        self._torch_config = torch_config(self.name)
        actor = ray.remote(JobQueue).options(
            name=self.name, num_cpus=0, resources=HEAD_SHARE, max_concurrency=MOST_CALLS
        )
        self.queue: Any = actor.remote(spec.restarts, spec.recycle_after_seconds)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        # Errors in threads that were still running when Ray shut down. Their frames hold handles,
        # and Ray exits with code 1 if a handle dies during shutdown, so keep them alive.
        self._held: list[BaseException] = []

    def __enter__(self) -> WorkerGroups:
        """Starts no group yet, because a study may have nothing left to do."""
        return self

    def start(self, jobs: int) -> None:
        """Start groups for this many jobs, at most ``count``; running groups are included."""
        for _ in range(min(jobs, self.count) - len(self._threads)):
            with self._lock:
                self._living += 1
            self._threads.append(threading.Thread(target=self._supervise, daemon=True))
            self._threads[-1].start()

    def __exit__(self, *exception: object) -> None:
        """Tell all workers to leave; any that remain after seconds end with Ray's session."""
        self._closing.set()
        if exception[0] is None:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(self.queue.close.remote(), timeout=5)
            for thread in self._threads:
                thread.join(10)

    def run(self, jobs: Sequence[Job]) -> list[Ending]:
        """Run all jobs in parallel; returns their last results, in order.

        A job that loses its group is retried in another one, like a trial; after that, the loss is
        its result.
        """
        self.start(len(jobs))
        clients = [JobClient(self.queue, silence_seconds=math.inf) for _ in jobs]
        for client, job in zip(clients, jobs, strict=True):
            client.submit(job)
        return [result_of(client, job) for client, job in zip(clients, jobs, strict=True)]

    def _supervise(self) -> None:
        """Keep one slot filled: replace groups that leave after a job, or are lost."""
        failures, group = 0, _new_name()
        ray.get(self.queue.starts.remote(group))
        while not self._closing.is_set():
            started = time.monotonic()
            try:
                with repeated(partial(self._warn_without_room, group), ROOM_SECONDS):
                    self._trainer(group).fit()
                failures, reason = 0, "its worker group exited"
            except BaseException as error:
                if self._closing.is_set():
                    self._held.append(error)
                    return
                lived = time.monotonic() - started
                failures = 1 if lived > STEADY_SECONDS else failures + 1
                reason = f"its worker group was lost: {error}"
                LOG.warning("%s was lost (%d in a row): %s", group, failures, error)
            if self._closing.is_set():
                return
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(self.queue.gone.remote(group, reason))
                if failures >= MOST_FAILURES:
                    self._give_up(reason)
                    return
            if failures:
                self._closing.wait(BACK_OFF_SECONDS * 2 ** (failures - 1))
            group = self._next_group()

    def _next_group(self) -> str:
        """The name of the next group, once a job waits for one."""
        group = _new_name()
        with contextlib.suppress(ray.exceptions.RayError):  # Ray has ended, and so has the sweep
            while not self._closing.is_set():
                if ray.get(self.queue.needs.remote(group, POLL_SECONDS)):
                    break
        return group

    def _warn_without_room(self, group: str) -> None:
        """Log how many jobs wait if the group has no room to start."""
        with contextlib.suppress(ray.exceptions.RayError):
            if waiting := ray.get(self.queue.waiting_for.remote(group)):
                LOG.warning("%s", no_room(waiting, self._spec.scaling))

    def _give_up(self, reason: str) -> None:
        with self._lock:
            self._living -= 1
            LOG.error("no new worker group after %d losses: %s", MOST_FAILURES, reason)
            if not self._living:
                ray.get(self.queue.give_up.remote(reason))

    def _trainer(self, group: str) -> TorchTrainer:
        spec = self._spec
        return TrainerWithoutDatasets(
            worker_loop,
            train_loop_config={
                "queue": self.queue,
                "run_job": spec.run_job,
                "group": group,
                "token": HubToken.of_driver(),
            },
            torch_config=self._torch_config,
            scaling_config=avoiding(spec.scaling, ray.get(self.queue.faulty_nodes.remote())),
            run_config=ray.train.RunConfig(
                name=group,
                storage_path=str(Path(spec.storage) / "groups"),
                # One limit for the whole life of the group; each job counts its own attempts.
                failure_config=ray.train.FailureConfig(
                    max_failures=1000, controller_failure_limit=3
                ),
            ),
        )
