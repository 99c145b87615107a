"""What a sweep needs of the disk at most, beside what is free."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import final

from sweeps.config import SweepConfig
from sweeps.designs.workload import kept_models
from sweeps.errors import UserError
from sweeps.folder.place import place_of

GIB = 2**30


@final
@dataclass(frozen=True)
class DiskNeed:
    """Bytes of the checkpoints of running trials and of the models that are kept, or are being
    written, all domains together; and what is free where they go."""

    checkpoints: int
    models: int
    free: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.checkpoints + self.models


def disk_need(config: SweepConfig, concurrency: int) -> DiskNeed | None:
    """An upper bound for a sweep that begins anew; None for a model that is not here yet.

    A checkpoint holds the weights and the optimizer's moments, in the dtype they are trained in.
    The next one is written before the last is removed, and so is a model before its trial ends.
    """
    from sweeps.finetune.memory import stored_parameters
    from sweeps.plans.pace import shortest_run

    parameters = stored_parameters(Path(config.model.path).expanduser())
    if parameters is None:
        return None
    model = parameters * _bytes_per_parameter(config)
    copies = {"adamw": 3, "adamw_8bit": 2, "adafactor": 1}[config.training.optimizer]
    kept = sum(kept_models(config, domain) for domain in config.domains)
    run = shortest_run(config, next(iter(config.domains)))
    checkpoints = 0
    if config.evaluation.checks > 1 or config.training.checkpoint_updates is not None:
        checkpoints = concurrency * (run.keep_checkpoints + 1) * copies * model
    return DiskNeed(checkpoints, (kept + concurrency) * model, free_bytes(config))


def free_bytes(config: SweepConfig) -> int:
    """What is free where the sweep's folder is, or will be."""
    folder = place_of(config).folder
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(there).free


def check_disk(config: SweepConfig) -> None:
    """Refuse a sweep that cannot fit.

    Raises:
        UserError: it needs more than is free.
    """
    if place_of(config).optuna_file().exists():
        return  # what it has written already is part of what it needs
    need = disk_need(config, config.resources.concurrency)
    if need is not None and need.total > need.free:
        raise UserError(
            f"storage {config.storage}: {need.free / GIB:.2f} GiB are free, and the sweep needs "
            f"up to {need.total / GIB:.2f} ({need.checkpoints / GIB:.2f} for checkpoints of "
            f"running trials, {need.models / GIB:.2f} for models); make room, give another "
            "storage, or lower keep.models or resources.concurrency"
        )


def _bytes_per_parameter(config: SweepConfig) -> int:
    import torch

    from sweeps.finetune.model import training_dtype

    on_gpu = config.resources.gpus_per_worker > 0 and torch.cuda.is_available()
    return training_dtype(config.model.dtype, torch.device("cuda" if on_gpu else "cpu")).itemsize
