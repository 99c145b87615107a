"""Runs one job on each worker of a group: a trial with its events and result, or a scoring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, final

import torch.distributed as dist

from sweeps.execution.job_messages import (
    STORE,
    Ending,
    Job,
    Measured,
    MeasuringJob,
    ScoringJob,
    TrialJob,
)
from sweeps.execution.test_scoring import score_model
from sweeps.finetune.disk_check import check_disk
from sweeps.finetune.process_group import Group
from sweeps.finetune.reporter import Check, RunResult
from sweeps.storage.trial_files import EVENTS_FILE
from sweeps.tracking.event_log import Outbox
from sweeps.tracking.system_metrics import SystemMetrics

Report = Callable[[Check], bool]


@final
class TrialReporter:
    """Sends steps to the trial's outbox, and validation checks to Tune through ``report``.

    Implements `sweeps.finetune.reporter.Reporter`. ``report`` returns whether to continue.
    """

    def __init__(self, outbox: Outbox | None, report: Report) -> None:
        self._outbox, self._report = outbox, report
        self._system = SystemMetrics()

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record one optimizer update."""
        if self._outbox is not None:
            self._outbox.append("step", step=step, metrics={**metrics, **self._system.due()})

    def check(self, check: Check) -> bool:
        """Record a validation check; unless it is the last, ask Tune whether to continue."""
        self.step(check.step, {**check.metrics, "eval/score": check.score})
        return check.done or self._report(Check(check.step, check.steps, check.score))


def run_job(job: Job, report: Report, memory: dict[str, Any]) -> Ending | None:
    """Run one job of a group on every rank (see `sweeps.execution.job_messages.Job`)."""
    match job:
        case TrialJob():
            return run_trial(job, report, memory)
        case ScoringJob():
            return score_model(job)
        case MeasuringJob():
            from sweeps.finetune.speed_comparison import measure

            return Measured(*measure(job.runs, job.rounds))
    raise TypeError(f"no way to run {job}")


def run_trial(job: TrialJob, report: Report, memory: dict[str, Any]) -> RunResult | None:
    """Run one trial on every rank.

    ``memory`` keeps values that later trials of this process can reuse without changing their
    results: weights and token ids.
    """
    from sweeps.finetune.derived_models import score_derived
    from sweeps.finetune.loop import Cache, finetune

    folder = Path(job.folder)
    cache = memory.setdefault("cache", Cache())
    if job.is_derived:
        return score_derived(job.run, job.drop, folder, cache, keep=False)
    if STORE in memory:  # a checkpoint stays on the disk while it is uploaded
        Group.current().from_lead(lambda: check_disk(job.run, folder, uploading=1))
    leads = dist.get_rank() == 0
    with Outbox(folder / EVENTS_FILE) if leads else nullcontext() as outbox:
        result = finetune(job.run, folder, TrialReporter(outbox, report), cache)
    return None if result.state == "stopped" else result
