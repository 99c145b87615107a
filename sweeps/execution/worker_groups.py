"""Groups of Ray Train workers that outlive trials, stages and studies.

Starting a `TorchTrainer` costs many seconds and a small trial costs a few, so the driver keeps as
many trainers as trials may run at once, and hands their workers one job after another:

    driver: WorkerGroups
      |- owns   JobQueue: the open jobs and their unread results
      '- thread per group: TorchTrainer.fit() -> controller -> N workers in `worker_loop`
    Tune trial actor (see `sweeps.execution.job_client`): submits a job, takes its results

Rank 0 of a group asks the board for a job; every rank runs it; at each validation check rank 0
hands the result over and all ranks learn whether to go on. When the driver dies, all of it dies.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

import ray
import ray.train
from ray.train.torch import TorchTrainer

from sweeps.config.failures import failed, kind_of
from sweeps.execution.job_client import MOST_TRIES, GroupLostError, JobClient
from sweeps.execution.job_queue import JobQueue, Message
from sweeps.execution.ray_compat import HEAD_SHARE
from sweeps.execution.rendezvous import torch_config
from sweeps.execution.train_compat import TrainerWithoutDatasets

STEADY_SECONDS = 300.0
"""A group that lived so long was not lost for a reason that the next one would meet at once."""

MOST_FAILURES = 3
"""Groups lost one after another before their place is given up."""

BACK_OFF_SECONDS = 2.0
"""Before a lost group is followed by the next; doubled each time."""


class RunJob(Protocol):
    """What the workers do with a job, on every rank: ``offer`` answers False for stop."""

    def __call__(
        self, job: Message, offer: Callable[[Message], bool], memory: dict[str, Any]
    ) -> Message | None:
        """Run the job; the returned message is its last result (None: it was stopped)."""


@final
@dataclass(frozen=True)
class GroupSpec:
    """How a group is built. `storage`: a folder that all nodes share; `restarts`: how often a job
    may lose its workers. A group leaves after a job of `recycle_after_seconds` or more: 0 gives
    each job fresh processes."""

    run_job: RunJob
    scaling: ray.train.ScalingConfig
    storage: str
    recycle_after_seconds: float = math.inf
    restarts: int = 3


def worker_loop(settings: Message) -> None:
    """The training function of the living group: fetch jobs and run them until sent home."""
    import torch.distributed as dist

    board, run_job, group = settings["board"], settings["run_job"], settings["group"]
    rank = ray.train.get_context().get_world_rank()
    worker = ray.get_runtime_context().current_actor
    control = dist.new_group(backend="gloo")  # never on the GPU, never among DDP's collectives
    memory: dict[str, Any] = {}
    names = [uuid.uuid4().hex]
    dist.broadcast_object_list(names, src=0, group=control)
    by = names[0]

    def agree(ask: Callable[[], Any]) -> Any:
        """Rank 0 asks the board; every rank gets the answer."""
        box = [ray.get(ask()) if rank == 0 else None]
        dist.broadcast_object_list(box, src=0, group=control)
        return box[0]

    while True:
        job = agree(lambda: board.fetch.remote(group, worker, by))
        if job["do"] == "leave":
            return
        if job["do"] == "run":
            _run_one(job, run_job, board, agree, memory, rank, by)


def _run_one(
    job: Message,
    run_job: RunJob,
    board: Any,
    agree: Callable[[Callable[[], Any]], Any],
    memory: dict[str, Any],
    rank: int,
    by: str,
) -> None:
    def offer(result: Message) -> bool:
        answer = "wait"
        while answer == "wait":
            answer = agree(lambda: board.report.remote(job["id"], result, by))
        return answer == "go"

    try:
        last = run_job(job, offer, memory)
    except Exception as error:
        # A dead peer shows as a failing collective: that is Train's to restart, not the job's end.
        if not _is_lost_peer(error):
            text = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
            ray.get(board.finish.remote(job["id"], failed(kind_of(error), text), by))
        raise
    if rank == 0 and last is not None:
        ray.get(board.finish.remote(job["id"], last, by))


def _is_lost_peer(error: Exception) -> bool:
    import torch.distributed as dist

    text = str(error).lower()
    return isinstance(error, dist.DistError) or (
        "gloo" in text and ("connection" in text or "timed out" in text)
    )


def result_of(client: JobClient, job: Message) -> Message:
    """The last result of a submitted job, also where it loses a group or two."""
    for _ in range(MOST_TRIES - 1):
        with contextlib.suppress(GroupLostError):
            return client.last()
        client.submit(job)
    try:
        return client.last()
    except GroupLostError as error:
        return failed(error.kind, str(error))


@final
class WorkerGroups:
    """The groups of a session, at most `count`, from the first line of a ``with`` to its end."""

    def __init__(self, spec: GroupSpec, count: int) -> None:
        self._spec, self.count, self._living = spec, count, 0
        self._torch_config = torch_config()
        self.name = f"gmt-board-{uuid.uuid4().hex[:8]}"
        actor = ray.remote(JobQueue).options(
            name=self.name, num_cpus=0, resources=HEAD_SHARE, max_concurrency=512
        )
        self.board: Any = actor.remote(spec.restarts, spec.recycle_after_seconds)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        # Errors of threads that Ray's end surprised. Their frames hold handles, and Ray ends the
        # process, with exit code 1, when a handle dies while its session does: they outlive it.
        self._held: list[BaseException] = []
        for name in ("ray.train", "ray.tune"):  # failures are told by the display, in a line
            logging.getLogger(name).setLevel(logging.CRITICAL)

    def __enter__(self) -> WorkerGroups:
        """Nothing is started yet: a study may have nothing left to do."""
        return self

    def start(self, jobs: int) -> None:
        """Have a group for each of so many jobs, as far as ``count`` goes; those that are started
        already are among them."""
        for _ in range(min(jobs, self.count) - len(self._threads)):
            with self._lock:
                self._living += 1
            self._threads.append(threading.Thread(target=self._supervise, daemon=True))
            self._threads[-1].start()

    def __exit__(self, *exception: object) -> None:
        """Send all workers home; what does not go within seconds dies with Ray's session."""
        self._closing.set()
        if exception[0] is None:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(self.board.close.remote(), timeout=5)
            for thread in self._threads:
                thread.join(10)

    def run(self, jobs: Sequence[Message]) -> list[Message]:
        """Have every job run by some group, side by side; their last results, in order. A job that
        loses its group is given to another one, as a trial is; then its loss is its result."""
        self.start(len(jobs))
        clients = [JobClient(self.board, silence_seconds=math.inf) for _ in jobs]
        for client, job in zip(clients, jobs, strict=True):
            client.submit(job)
        return [result_of(client, job) for client, job in zip(clients, jobs, strict=True)]

    def _supervise(self) -> None:
        """One group after another: isolated ones leave after a job, and any may be lost."""
        failures = 0
        while not self._closing.is_set():
            group, started = f"group-{uuid.uuid4().hex[:8]}", time.monotonic()
            try:
                self._trainer(group).fit()
                failures, reason = 0, "its group of workers left"
            except BaseException as error:
                if self._closing.is_set():
                    self._held.append(error)
                    return
                lived = time.monotonic() - started
                failures = 1 if lived > STEADY_SECONDS else failures + 1
                reason = f"its group of workers is gone: {error}"
            if self._closing.is_set():
                return
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(self.board.gone.remote(group, reason))
                if failures >= MOST_FAILURES:
                    self._give_up(reason)
                    return
            if failures:
                self._closing.wait(BACK_OFF_SECONDS * 2 ** (failures - 1))

    def _give_up(self, reason: str) -> None:
        with self._lock:
            self._living -= 1
            if not self._living:
                ray.get(self.board.give_up.remote(reason))

    def _trainer(self, group: str) -> TorchTrainer:
        spec = self._spec
        return TrainerWithoutDatasets(
            worker_loop,
            train_loop_config={"board": self.board, "run_job": spec.run_job, "group": group},
            torch_config=self._torch_config,
            scaling_config=spec.scaling,
            run_config=ray.train.RunConfig(
                name=group,
                storage_path=str(Path(spec.storage) / "groups"),
                # One budget for the whole life of the group; each job counts its own attempts.
                failure_config=ray.train.FailureConfig(
                    max_failures=1000, controller_failure_limit=3
                ),
            ),
        )
