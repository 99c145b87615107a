"""Runs one job on each worker of a group: a trial with its events and result, or a scoring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import torch.distributed as dist

from sweeps.execution.test_scoring import score_model
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.reporter import Check
from sweeps.storage.trial_files import EVENTS_FILE
from sweeps.tracking.event_log import Outbox
from sweeps.tracking.system_metrics import SystemMetrics


@final
class TrialReporter:
    """Sends steps to the trial's outbox, and validation checks to Tune through ``report``.

    Implements `sweeps.finetune.reporter.Reporter`. ``report`` returns whether to continue.
    """

    def __init__(self, outbox: Outbox | None, report: Callable[[dict[str, Any]], bool]) -> None:
        self._outbox, self._report = outbox, report
        self._system = SystemMetrics()

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record one optimizer update."""
        if self._outbox is not None:
            self._outbox.append("step", step=step, metrics={**metrics, **self._system.due()})

    def check(self, check: Check) -> bool:
        """Record a validation check; unless it is the last, ask Tune whether to continue."""
        self.step(check.step, {**check.metrics, "eval/score": check.score})
        if check.done:
            return True
        return self._report({"score": check.score, "step": check.step, "steps": check.steps})


def run_job(
    job: dict[str, Any], report: Callable[[dict[str, Any]], bool], memory: dict[str, Any]
) -> dict[str, Any] | None:
    """Run one job of a group on every rank (see `sweeps.execution.worker_groups.RunJob`).

    A job is a trial, the scoring of a model on test items, or a measurement, which only rank 0
    runs.
    """
    if "scoring" in job:
        return score_model(**job["scoring"])
    if "measuring" in job:
        from sweeps.finetune.speed_comparison import measure

        return measure(**job["measuring"]) if dist.get_rank() == 0 else None
    return run_trial(job, report, memory)


def run_trial(
    job: dict[str, Any], report: Callable[[dict[str, Any]], bool], memory: dict[str, Any]
) -> dict[str, Any] | None:
    """Run one trial on every rank.

    ``job``: ``folder`` and ``run`` (a `FinetuneConfig` as JSON). With ``derived`` nothing is
    trained; a model derived from others is scored. ``memory`` keeps values that later trials of
    this process can reuse without changing their results: weights and token ids.
    """
    from sweeps.finetune.derived import score_derived
    from sweeps.finetune.finetune_config import DropConfig
    from sweeps.finetune.loop import Cache, finetune

    config = FinetuneConfig.model_validate_json(job["run"])
    folder = Path(job["folder"])
    cache = memory.setdefault("cache", Cache())
    if "derived" in job:
        drop = None if job["derived"] is None else DropConfig(**job["derived"])
        return asdict(score_derived(config, drop, folder, cache, keep=False))
    outbox = Outbox(folder / EVENTS_FILE) if dist.get_rank() == 0 else None
    try:
        result = finetune(config, folder, TrialReporter(outbox, report), cache)
    finally:
        if outbox is not None:
            outbox.close()
    return None if result.state == "stopped" else asdict(result)
