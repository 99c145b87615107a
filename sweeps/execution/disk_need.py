"""An upper bound on a sweep's disk use, the free space, and what a trial's checkpoints take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import final

from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.execution.preflight import different_runs
from sweeps.finetune.disk_check import free_disk
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.memory_check import checkpoint_bytes
from sweeps.finetune.model_facts import BYTES, count_parameters
from sweeps.finetune.optimizers import checkpoint_steps
from sweeps.report.trial_row import TrialRow
from sweeps.search.trial_counts import kept_models, workload
from sweeps.search.trial_records import recorded_rows
from sweeps.storage.address import is_address
from sweeps.storage.errors import UserError

Rows = tuple[TrialRow, ...]
Recorded = Mapping[str, Rows]
GIB = 2**30
WRITE_RATE = 125.0
"""Megabytes per second of a gp3 volume, unless more is paid for."""


@final
@dataclass(frozen=True)
class DiskNeed:
    """Bytes for the checkpoints of running trials and for models that are kept or being written,
    over all domains; and the free bytes on the storage's disk."""

    checkpoints: int
    models: int
    free: int

    @property
    def total(self) -> int:
        """Bytes for checkpoints and models together."""
        return self.checkpoints + self.models


def disk_need(config: SweepConfig, concurrency: int, recorded: Recorded) -> DiskNeed | None:
    """An upper bound for the missing trials, beyond what recorded trials have written; None if
    its size is unknown (see `count_parameters`). ``recorded``: recorded trials by domain.

    A checkpoint holds what is trained and the optimizer's moments. A new one is written before
    the old one is removed, and a model before its trial ends.
    """
    parameters = count_parameters(config.model)
    if parameters is None:
        return None
    left = {name: workload(config, name, rows).left for name, rows in recorded.items()}
    running = min(concurrency, sum(left.values()))
    model = parameters * BYTES[config.model.dtype]
    runs = [run for name in left for run in different_runs(config, name)]
    largest = max(checkpoint_bytes(run) or 0 for run in runs)
    kept = sum(min(left[name], _kept_more(config, name, recorded[name])) for name in left)
    checkpoints = _checkpoints(config, running, recorded) * largest
    return DiskNeed(checkpoints, (kept + running) * model, free_disk(paths_for(config).folder))


def _kept_more(config: SweepConfig, domain: str, rows: Rows) -> int:
    """How many more models a domain's study may keep, beyond the existing ones."""
    home = paths_for(config)
    there = sum(row.has_ended() and home.model(domain, row.key).exists() for row in rows)
    return max(0, kept_models(config, domain) - there)


def _checkpoints(config: SweepConfig, running: int, recorded: Recorded) -> int:
    """How many more checkpoints may exist at once; a resumed trial already has some."""
    from sweeps.execution.trial_time import shortest_run
    from sweeps.finetune.checkpoint import saved

    if config.evaluation.checks == 1 and config.training.checkpoint_updates is None:
        return 0
    keep = shortest_run(config, next(iter(config.domains))).keep_checkpoints
    home = paths_for(config)
    begun = [(d, r.key) for d, rows in recorded.items() for r in rows if not r.has_ended()]
    there = sorted((len(saved(home.trial(*one))) for one in begun), reverse=True)[:running]
    return running * (keep + 1) - sum(min(keep, count) for count in there)


def check_disk(config: SweepConfig) -> None:
    """Refuse a sweep whose missing trials do not fit on the disk.

    Raises:
        UserError: the sweep needs more than is free. An object store counts as unlimited.
    """
    if is_address(config.storage):
        return
    need = disk_need(config, config.resources.concurrency, recorded_rows(config))
    if need is not None and need.total > need.free:
        raise UserError(
            f"storage {config.storage}: {need.free / GIB:.2f} GiB free, but the sweep needs up to "
            f"{need.total / GIB:.2f} ({need.checkpoints / GIB:.2f} for checkpoints of running "
            f"trials, {need.models / GIB:.2f} for models); free some space, use another storage, "
            "or lower keep.models or resources.concurrency"
        )


@final
@dataclass(frozen=True)
class CheckpointCost:
    """`count` checkpoints of a trial, of `size` bytes each, which takes `seconds` to write.

    `waits`: for how many seconds they delay the trial in all; None if unknown.
    """

    count: int
    size: int
    seconds: float
    waits: float | None


def checkpoint_cost(
    run: FinetuneConfig, workers: int, device: str, training: float | None, rate: float
) -> CheckpointCost | None:
    """The cost for a trial of `training` seconds whose disk takes `rate` megabytes per second.

    In the background, training waits only for one that is not written when the next is due. None
    if the model's size is unknown.
    """
    if (size := checkpoint_bytes(run)) is None:
        return None
    steps = run.steps(workers)
    saves = sorted(checkpoint_steps(steps, run.evaluation.checks, run.checkpoint_updates))
    seconds = size / (1e6 * rate)
    waits: float | None = len(saves) * seconds
    if run.saves_in_background(device) and saves:
        gaps = [after - before for before, after in pairwise([*saves, steps])]
        step = None if training is None else training / steps
        waits = None if step is None else sum(max(0.0, seconds - gap * step) for gap in gaps)
    return CheckpointCost(len(saves), size, seconds, waits)
