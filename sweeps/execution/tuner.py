"""Run trials: the Tuner for one or more studies, and the worker groups that run its jobs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import ray.train
import ray.tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from sweeps.config.budget import StopCondition
from sweeps.config.resources import Resources
from sweeps.config.sweep_config import SweepConfig
from sweeps.execution.cluster import worker_needs
from sweeps.execution.job_client import trainable_for
from sweeps.execution.ray_compat import HEAD_SHARE
from sweeps.execution.remote_job import RunJob, Stored, StoredJob
from sweeps.execution.shared_storage import SharedFolderJob
from sweeps.execution.trial_batch import BatchSearcher, Observers, TrialBatch
from sweeps.execution.trial_worker import run_job
from sweeps.execution.worker_groups import GroupSpec, WorkerGroups

LONG_SECONDS = 300.0
"""For trials of this length, starting a fresh group costs little."""

_RECYCLE_AFTER_SECONDS = {"warm": math.inf, "auto": LONG_SECONDS, "isolated": 0.0}


@final
class AllTrialsStopper(ray.tune.Stopper):
    """Tells Tune when to stop all trials."""

    def __init__(self, stop_condition: StopCondition) -> None:
        self._stop_condition = stop_condition

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stops a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether the stop condition holds."""
        return self._stop_condition.due()


@final
class EarlyStopping(FIFOScheduler):
    """Stops a trial when its study's pruner says so; starts trials in order."""

    def __init__(self, searcher: BatchSearcher) -> None:
        super().__init__()
        self._searcher = searcher

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles its scheduler for a snapshot that is never restored."""
        return {}

    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> str:
        """Continue or stop after a validation check, except the last."""
        unpromising = self._searcher.is_unpromising(trial.trial_id, result)
        decision: str = TrialScheduler.STOP if unpromising else TrialScheduler.CONTINUE
        return decision


def run_tuner(
    config: SweepConfig,
    batches: Sequence[TrialBatch],
    stop_condition: StopCondition,
    groups: WorkerGroups,
    folder: str,
) -> None:
    """Run the trials that the studies request, as many at once as there are groups.

    Tune's own files go to ``folder``.
    """
    groups.start(sum(batch.trials for batch in batches))
    trainable = trainable_for(groups.name, config.failures)
    search = BatchSearcher(batches)
    ray.tune.Tuner(
        ray.tune.with_resources(trainable, HEAD_SHARE),
        tune_config=ray.tune.TuneConfig(
            search_alg=search,
            scheduler=EarlyStopping(search),
            num_samples=-1,  # the searcher ends them
            max_concurrent_trials=groups.count,
            reuse_actors=True,
        ),
        run_config=ray.tune.RunConfig(
            # Tune's own snapshots are never restored, so use a new name for each call.
            name=f"tune-{time.strftime('%Y%m%d-%H%M%S')}",
            storage_path=folder,
            callbacks=[Observers(search)],
            failure_config=ray.tune.FailureConfig(max_failures=1),
            stop=AllTrialsStopper(stop_condition),
            verbose=0,
        ),
    ).fit()
    groups.is_warm = True


def worker_groups(
    resources: Resources,
    count: int,
    folder: Path,
    stored: Stored | None = None,
    word: str | None = None,
) -> WorkerGroups:
    """The worker groups, to be entered; their own files go to ``folder``.

    ``word``: the content that every node must find there (see `probe`).
    """
    recycle_after = _RECYCLE_AFTER_SECONDS[resources.trial_group]
    run: RunJob = run_job
    if stored is not None:
        run = StoredJob(stored, run_job)
    elif word is not None:
        run = SharedFolderJob(str(folder), word, run_job)
    packed = stored is not None and stored.one_node
    spec = GroupSpec(
        run, scaling(resources, packed), storage=str(folder), recycle_after_seconds=recycle_after
    )
    return WorkerGroups(spec, count)


def scaling(resources: Resources, packed: bool = False) -> ray.train.ScalingConfig:
    """The workers of one trial; ``packed``: all on one node."""
    return ray.train.ScalingConfig(
        num_workers=resources.workers,
        use_gpu=resources.gpus_per_worker > 0,
        resources_per_worker=worker_needs(resources),
        placement_strategy="STRICT_PACK" if packed else "PACK",
    )
