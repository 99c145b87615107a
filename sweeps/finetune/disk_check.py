"""Whether what a run writes fits the disks of its own machine, before it trains."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

from sweeps.finetune import hub
from sweeps.finetune.checkpoint import saved
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.memory_check import checkpoint_bytes
from sweeps.finetune.model_facts import BYTES, count_parameters, is_downloaded

_GIB = 2**30
_HUB_BYTES = 2
"""Of a weight on the hub, at least."""


class DiskError(ValueError):
    """A disk is too small for a run; the message says which and what the run needs."""


def check_disk(config: FinetuneConfig, folder: Path, uploading: int = 0) -> None:
    """Raise DiskError if `folder` has no room for checkpoints and model.

    A new checkpoint is written beside those that are kept. `uploading`: how many more are held.
    """
    checkpoint, parameters = checkpoint_bytes(config), count_parameters(config.model)
    if checkpoint is None or parameters is None:
        return
    saves = config.evaluation.checks > 1 or config.checkpoint_updates is not None
    missing = config.keep_checkpoints + 1 + uploading - len(saved(folder))
    checkpoints = saves * max(0, missing) * checkpoint
    model = (config.keep == "model") * parameters * BYTES[config.model.dtype]
    needed = f"{checkpoints / _GIB:.2f} for checkpoints, {model / _GIB:.2f} for the model"
    _require(folder, checkpoints + model, f"the run needs up to {{}} ({needed})")


def check_hub_cache(config: FinetuneConfig) -> None:
    """Raise DiskError if a model of the hub is not here yet, and its cache has no room for it."""
    parameters, model = count_parameters(config.model), config.model
    if parameters is None or Path(model.path).expanduser().is_dir() or is_downloaded(model):
        return
    what = f"model.path {model.path} takes at least {{}}; HF_HOME names another disk"
    _require(hub.cache_folder(), parameters * _HUB_BYTES, what)


def _require(folder: Path, needed: int, what: str) -> None:
    if needed > (free := free_disk(folder)):
        said = what.format(f"{needed / _GIB:.2f} GiB")
        raise DiskError(f"{folder} on {socket.gethostname()}: {free / _GIB:.2f} GiB free, {said}")


def free_disk(folder: Path) -> int:
    """Free bytes on the disk of ``folder``, which need not exist yet."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(there).free
