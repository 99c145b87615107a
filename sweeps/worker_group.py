"""A living group of Ray Train workers that runs one trial after another.

Starting a `TorchTrainer` costs several seconds and a small trial costs one, so a Tune trial actor
keeps its trainer and hands it jobs:

    Tune trial actor (GroupTrainable, kept by `reuse_actors`)
      |- owns   Board: the one open job and its unread results
      '- thread TorchTrainer.fit() -> controller -> N workers in `serve`

Rank 0 of the workers asks the board for a job; every rank runs it; at each validation check rank 0
hands the result over and all ranks learn whether to go on. When the actor dies, all of it dies.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

import ray
import ray.train
import ray.tune
from ray.train.torch import TorchConfig, TorchTrainer

from sweeps.board import Board, Message


class RunJob(Protocol):
    """What the workers do with a job, on every rank: ``offer`` answers False for stop."""

    def __call__(
        self, job: Message, offer: Callable[[Message], bool], memory: dict[str, Any]
    ) -> Message | None:
        """Run the job; the returned message is its last result (None: it was stopped)."""


@final
@dataclass(frozen=True)
class GroupSpec:
    """How a group is built. `storage`: a folder that all nodes share; `stall_seconds`: the
    longest silence of a running job before its trial is failed."""

    run_job: RunJob
    scaling: ray.train.ScalingConfig
    storage: str
    stall_seconds: float
    restarts: int = 3


def serve(settings: Message) -> None:
    """The training function of the living group: fetch jobs and run them until sent home."""
    import torch.distributed as dist

    board, run_job = settings["board"], settings["run_job"]
    rank = ray.train.get_context().get_world_rank()
    control = dist.new_group(backend="gloo")  # never on the GPU, never among DDP's collectives
    memory: dict[str, Any] = {}

    def agree(ask: Callable[[], Any]) -> Any:
        """Rank 0 asks the board; every rank gets the answer."""
        box = [ray.get(ask()) if rank == 0 else None]
        dist.broadcast_object_list(box, src=0, group=control)
        return box[0]

    while True:
        job = agree(board.fetch.remote)
        if job["do"] == "leave":
            return
        if job["do"] == "run":
            _run_one(job, run_job, board, agree, memory, rank)


def _run_one(
    job: Message,
    run_job: RunJob,
    board: Any,
    agree: Callable[[Callable[[], Any]], Any],
    memory: dict[str, Any],
    rank: int,
) -> None:
    def offer(result: Message) -> bool:
        answer = "wait"
        while answer == "wait":
            answer = agree(lambda: board.offer.remote(job["id"], result))
        return answer == "go"

    try:
        last = run_job(job, offer, memory)
    except Exception as error:
        # A dead peer shows as a failing collective: that is Train's to restart, not the job's end.
        if not _is_lost_peer(error):
            text = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
            ray.get(board.finish.remote(job["id"], {"error": text}))
        raise
    if rank == 0 and last is not None:
        ray.get(board.finish.remote(job["id"], last))


def _is_lost_peer(error: Exception) -> bool:
    import torch.distributed as dist

    text = str(error).lower()
    return isinstance(error, dist.DistError) or (
        "gloo" in text and ("connection" in text or "timed out" in text)
    )


class TrialFailure(RuntimeError):
    """The group can no longer serve its trial; Tune replaces it."""


class GroupTrainable(ray.tune.Trainable):
    """Tune's view of a group: each ``step`` is the job's next result. See ``group_trainable``."""

    spec: GroupSpec

    def setup(self, config: Message) -> None:
        """Start a group, then open the first job."""
        spec = type(self).spec
        actor = ray.remote(Board).options(num_cpus=0, max_concurrency=64)
        self._board: Any = actor.remote(spec.restarts)
        self._death: BaseException | None = None
        self._trainer = TorchTrainer(
            serve,
            train_loop_config={"board": self._board, "run_job": spec.run_job},
            torch_config=TorchConfig(timeout_s=1800),
            scaling_config=spec.scaling,
            run_config=ray.train.RunConfig(
                name=f"group-{uuid.uuid4().hex[:8]}",
                storage_path=str(Path(spec.storage) / "groups"),
                # One budget for the whole life of the group; each job counts its own attempts.
                failure_config=ray.train.FailureConfig(
                    max_failures=1000, controller_failure_limit=3
                ),
            ),
        )
        self._thread = threading.Thread(target=self._fit, daemon=True)
        self._thread.start()
        self.reset_config(config)

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:
            self._death = error

    def reset_config(self, new_config: Message) -> bool:
        """Open the next job in the same group."""
        self._unread = False
        job = {"id": uuid.uuid4().hex, **new_config}
        ray.get(self._board.submit.remote(job))
        return True

    def step(self) -> Message:
        """The next result of the job; raises `TrialFailure` when the group fell silent or died.

        A job that raised is a result like another (``state`` "failed"), so that the actor stays:
        Train restarts the workers and the next trial runs in them.
        """
        if self._unread:  # Tune asks again, so it did not stop the trial after the last result
            ray.get(self._board.taken.remote())
        end = time.monotonic() + type(self).spec.stall_seconds
        while time.monotonic() < end:
            result: Message | None = ray.get(self._board.take.remote(2.0))
            if result is not None:
                return self._checked(result)
            if not self._thread.is_alive():
                raise TrialFailure(f"the group of workers is gone: {self._death}")
        raise TrialFailure(f"no result for {type(self).spec.stall_seconds:.0f} seconds")

    def _checked(self, result: Message) -> Message:
        if "error" in result:
            result = {"state": "failed", "failure": result["error"], "last": True}
        self._unread = True
        last = result.pop("last", False)
        return {**result, ray.tune.result.DONE: last}

    def cleanup(self) -> None:
        """Send the workers home; called by Tune when the actor is not reused."""
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self._board.close.remote(), timeout=5)
        self._thread.join(5)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a trial's state lies in its own folder and outlives the actor."""

    def load_checkpoint(self, checkpoint: Message | None) -> None:
        """Nothing, as ``save_checkpoint``."""


def group_trainable(spec: GroupSpec) -> type[GroupTrainable]:
    """The Trainable class of one study."""
    return type("GmtTrial", (GroupTrainable,), {"spec": spec})
