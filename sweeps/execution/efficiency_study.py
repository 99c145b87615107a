"""The efficiency study of one domain: one measurement by a group of workers, and its record."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.execution.job_messages import Measured, MeasuringJob
from sweeps.execution.test_scoring import completed
from sweeps.search.fixed_designs import mask_ratio, plan_of
from sweeps.storage.atomic_io import atomic_write

if TYPE_CHECKING:
    from sweeps.execution.worker_groups import WorkerGroups

MEASURED = "measured.json"
METHODS = ("sft", "random", "gmt")


def measured(config: SweepConfig, domain: str, groups: WorkerGroups) -> dict[str, Any]:
    """What an earlier session measured, or a new measurement; keys "methods" and "place".

    Raises:
        UserError: the measurement failed.
    """
    path = paths_for(config).study(domain) / MEASURED
    if not path.exists():
        endings = groups.run([_job(config, domain)])
        (result,) = completed(endings, Measured, "the measurement of efficiency")
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(asdict(result), indent=1) + "\n")
    return read(path)


def read(path: Path) -> dict[str, Any]:
    """A measurement's record."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _job(config: SweepConfig, domain: str) -> MeasuringJob:
    # A worker group measures, because it holds the hardware; a separate task would find none free.
    rounds, workers = config.study.rounds, config.resources.workers
    interval, rate = plan_of(config, domain).combinations[0]
    runs = {}
    for name in METHODS:
        ratio = 0.0 if name == "sft" else mask_ratio(config, domain)
        point = {"mask_ratio": ratio, "accumulation_interval": interval, "learning_rate": rate}
        run = config.trial(domain, {**point, "method": name})
        # As many updates as are measured, with the first and the warm-up ones.
        updates = rounds + 4
        runs[name] = run.model_copy(update={"examples": updates * run.effective_batch(workers)})
    return MeasuringJob(f"{domain}/efficiency", runs, rounds)
