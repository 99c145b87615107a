"""What runs: a study's Tuner, and the groups of workers that do its trials."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, final

import ray.train
import ray.tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from sweeps.cluster import HEAD_SHARE
from sweeps.config import Resources, SweepConfig
from sweeps.halt import FailuresConfig, Halt
from sweeps.jobs import Patience, job_trainable
from sweeps.observer import StudyObserver
from sweeps.search import StudySearch
from sweeps.trial import PROGRESS, run_job
from sweeps.worker_group import GroupSpec, WorkerGroups

LONG_SECONDS = 300.0
"""From here on the start of a fresh group hardly counts."""

_WEAR = {"warm": math.inf, "auto": LONG_SECONDS, "isolated": 0.0}


@final
class HaltStopper(ray.tune.Stopper):
    """Tune's question whether to stop everything."""

    def __init__(self, halt: Halt) -> None:
        self._halt = halt

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is stopped here."""
        return False

    def stop_all(self) -> bool:
        """Whether the study is to halt."""
        return self._halt.due()


def run_tuner(
    config: SweepConfig,
    search: StudySearch,
    observer: StudyObserver,
    halt: Halt,
    trials: int,
    groups: WorkerGroups,
    folder: str,
) -> None:
    """Run ``trials`` trials of ``search``, as many at once as there are groups."""
    groups.start()
    trainable = job_trainable(groups.name, patience(config.failures))
    ray.tune.Tuner(
        ray.tune.with_resources(trainable, HEAD_SHARE),
        tune_config=ray.tune.TuneConfig(
            search_alg=search,
            scheduler=scheduler(config),
            num_samples=trials,
            max_concurrent_trials=groups.count,
            reuse_actors=True,
        ),
        run_config=ray.tune.RunConfig(
            # Tune's own snapshots are never restored: a new name for each session.
            name=f"tune-{time.strftime('%Y%m%d-%H%M%S')}",
            storage_path=folder,
            callbacks=[observer],
            failure_config=ray.tune.FailureConfig(max_failures=1),
            stop=HaltStopper(halt),
            verbose=0,
        ),
    ).fit()


def patience(failures: FailuresConfig) -> Patience:
    """How long trials are waited for."""
    hours = math.inf if failures.trial_hours is None else failures.trial_hours
    return Patience(failures.silence_seconds, 3600 * hours, halve=failures.on_oom == "halve")


def worker_groups(resources: Resources, count: int, folder: Path) -> WorkerGroups:
    """The groups of a session, to be entered; their own files go to ``folder``."""
    wear = _WEAR[resources.trial_group]
    spec = GroupSpec(run_job, scaling(resources), storage=str(folder), wear_seconds=wear)
    return WorkerGroups(spec, count)


def scaling(resources: Resources) -> ray.train.ScalingConfig:
    """The workers of one trial."""
    per_worker = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        per_worker["GPU"] = resources.gpus_per_worker
    return ray.train.ScalingConfig(
        num_workers=resources.workers,
        use_gpu=resources.gpus_per_worker > 0,
        resources_per_worker=per_worker,
    )


def scheduler(config: SweepConfig) -> TrialScheduler:
    """ASHA over validation checks, or every trial to its end.

    Rungs are shares of the budget of examples, not updates: with another accumulation interval the
    same examples take another number of updates.
    """
    wanted = config.search.scheduler
    if wanted.name == "none" or config.study.kind != "search":
        return FIFOScheduler()
    return AsyncHyperBandScheduler(
        time_attr=PROGRESS,
        metric="score",
        mode="max",
        max_t=100,
        # One less: a check falls on a whole update, which may lie a little before the exact share.
        grace_period=max(1, 100 * wanted.grace_checks // config.evaluation.checks - 1),
        reduction_factor=wanted.reduction_factor,
    )
