"""Estimate the time of one trial: from finished trials, from given times, or measured here."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import final

from sweeps.config.sweep_config import SweepConfig
from sweeps.finetune.finetune_config import EvaluationConfig, FinetuneConfig
from sweeps.finetune.reporter import Check
from sweeps.report.trial_row import TrialRow

MEASURED_UPDATES, MEASURED_ITEMS = 8, 32
TRAIN, EVALUATE = "cost/train_seconds", "cost/eval_seconds"


@final
@dataclass(frozen=True)
class Pace:
    """Seconds of a whole trial on all its workers; `evaluation` is None if unknown.

    `source` says where the numbers come from. `setup`: of a trial before its first update;
    `start`: of the sweep before its first trial. Both are 0 if they were not measured.
    """

    training: float
    evaluation: float | None
    source: str
    setup: float = 0.0
    start: float = 0.0


@final
@dataclass(frozen=True)
class ItemCounts:
    """Validation items of the last check and of each earlier check, over all benchmarks."""

    last: int
    earlier: int

    def per_trial(self, checks: int) -> int:
        """Items scored in a whole trial."""
        return self.last + (checks - 1) * self.earlier


def recorded_pace(rows: tuple[TrialRow, ...]) -> Pace | None:
    """The mean of a study's finished trials; None before the first has finished."""
    metrics = [row.metrics for row in rows if row.state == "finished" and TRAIN in row.metrics]
    if not metrics:
        return None
    training, evaluation = (
        sum(each.get(name, 0.0) for each in metrics) / len(metrics) for name in (TRAIN, EVALUATE)
    )
    trials = "the one finished trial" if len(metrics) == 1 else f"{len(metrics)} finished trials"
    return Pace(training, evaluation, f"{trials} of this study")


def given_pace(
    config: SweepConfig, domain: str, step: float, check: float | None, items: ItemCounts
) -> Pace:
    """From the seconds of an update at the smallest interval and of the last check."""
    updates = shortest_run(config, domain).steps(config.resources.workers)
    evaluation = None
    if check is not None:
        evaluation = check * items.per_trial(config.evaluation.checks) / max(1, items.last)
    return Pace(updates * step, evaluation, "the given times")


def measured_pace(config: SweepConfig, domain: str, items: ItemCounts) -> Pace:
    """From a few updates and items of one trial, run in this process and on its device, and from
    the start of a Ray session with a worker.

    Assumes that several workers share the work evenly, without communication time.

    Raises:
        ValueError: the trial cannot run here; the message says why.
    """
    from sweeps.finetune.loop import finetune

    workers, run = config.resources.workers, _short(shortest_run(config, domain))
    start = _start_seconds()
    for _ in range(2):  # the first run imports libraries, which a worker does once
        clock, began = _Clock(), time.perf_counter()
        with TemporaryDirectory() as folder:
            result = finetune(run, Path(folder), clock)
    # The first update also warms up caches and kernels.
    update = median([after - before for before, after in pairwise(clock.moments)][1:])
    examples = config.domains[domain].examples or config.training.examples
    scored = sum(min(MEASURED_ITEMS, b.limit or MEASURED_ITEMS) for b in run.evaluation.benchmarks)
    per_item = result.metrics[EVALUATE] / min(scored, max(1, items.last))
    return Pace(
        update / run.effective_batch(1) * examples / workers,
        per_item * items.per_trial(config.evaluation.checks) / workers,
        f"{MEASURED_UPDATES} updates and {MEASURED_ITEMS} items of each benchmark, measured here",
        max(0.0, clock.moments[0] - began - update),
        start,
    )


_START = """
import ray
from sweeps.config.resources import Resources
from sweeps.execution.cluster import ray_session

@ray.remote
def imported():
    import sweeps.execution.trial_worker

with ray_session(Resources()):
    ray.get(imported.remote())
"""


def _start_seconds() -> float:
    """Until a worker of a new session is ready for its first trial.

    Raises:
        ValueError: Ray does not start here.
    """
    began = time.perf_counter()
    found = subprocess.run([sys.executable, "-c", _START], capture_output=True, text=True)
    if found.returncode:
        raise ValueError(f"--measure: Ray did not start: {found.stderr.strip()[-200:]}")
    return time.perf_counter() - began


def count_items(config: SweepConfig, domain: str) -> ItemCounts:
    """The number of validation items that score a trial of the domain.

    Raises:
        ValueError: a file cannot be read.
    """
    from sweeps.finetune.benchmarks import build_benchmark, load_items

    last = earlier = 0
    for each in config.domains[domain].benchmarks:
        there = len(load_items(each, build_benchmark(each), "validation"))
        full = min(there, each.limit or there)
        last += full
        earlier += min(full, config.evaluation.check_limit or full)
    return ItemCounts(last, earlier)


def shortest_run(config: SweepConfig, domain: str) -> FinetuneConfig:
    """A trial of the domain with the fewest examples per update and the largest mask ratio."""
    runs = config.checked_trials(domain)
    method = max(runs, key=lambda run: run.method.mask_ratio).method
    smallest = min(runs, key=lambda run: run.effective_batch(config.resources.workers))
    return smallest.model_copy(update={"method": method})


def _short(run: FinetuneConfig) -> FinetuneConfig:
    benchmarks = tuple(
        each.model_copy(update={"limit": min(MEASURED_ITEMS, each.limit or MEASURED_ITEMS)})
        for each in run.evaluation.benchmarks
    )
    return run.model_copy(
        update={
            "examples": MEASURED_UPDATES * run.effective_batch(1),
            "evaluation": EvaluationConfig(benchmarks=benchmarks, checks=1),
            "checkpoint_updates": None,
            "keep": "none",
        }
    )


@final
class _Clock:
    """A reporter that records when each update was done."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the time."""
        self.moments.append(time.perf_counter())

    def check(self, check: Check) -> bool:
        """Never stops the run."""
        return True
