"""A check's result (`Finding`), and the checks of a machine: GPUs, disk, memory and clock."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import final


@final
@dataclass(frozen=True)
class Finding:
    """The result of one check. ``fix`` says how to fix a failure; with ``ok`` it is advice on
    how to improve something that works. Empty if there is nothing to do."""

    name: str
    ok: bool
    said: str
    fix: str = ""


GIB = 2**30
LEAST_DISK = 10 * GIB
LEAST_MEMORY = 2 * GIB
MOST_SKEW_SECONDS = 2.0
"""Time stamps of metrics and locks are compared across machines."""


@final
@dataclass(frozen=True)
class Gpu:
    """One GPU that torch sees; memory in bytes."""

    name: str
    memory: int


def gpus() -> list[Gpu]:
    """The GPUs that this process may use."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    return [Gpu(each.name, each.total_memory) for each in found]


def driver_sees_gpus() -> bool:
    """Whether the operating system has an NVIDIA GPU, even if torch cannot use it."""
    return Path("/proc/driver/nvidia/gpus").is_dir()


def check_gpus(found: list[Gpu], wanted: float, present: bool) -> Finding:
    """``wanted``: GPUs per worker of a trial; ``present``: whether the machine has any."""
    if not found and present:
        said = "this machine has an NVIDIA GPU, but torch cannot use it"
        fix = 'nvidia-smi; python -c "import torch; print(torch.version.cuda)"'
        return Finding("GPUs", False, said, fix)
    if wanted > len(found):
        said = f"a worker needs {wanted:g}, but {len(found)} are visible"
        return Finding("GPUs", False, said, "set resources.gpus_per_worker=0, or use a cluster")
    if not found:
        return Finding("GPUs", True, "none; trials run on CPUs")
    names = {gpu.name: sum(each.name == gpu.name for each in found) for gpu in found}
    least = min(gpu.memory for gpu in found) / GIB
    said = ", ".join(f"{count} x {name}" for name, count in names.items())
    return Finding("GPUs", True, f"{said}, at least {least:.0f} GiB each")


def free_disk(folder: Path) -> int:
    """Free bytes on the disk of ``folder``, which need not exist yet."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(there).free


def check_disk(free: int, folder: Path) -> Finding:
    """Space for checkpoints and models."""
    said = f"{free / GIB:.0f} GiB free at {folder}"
    if free < LEAST_DISK:
        fix = f"df -h {folder}; use another folder: storage=FOLDER"
        return Finding("disk", False, f"{said}, expected at least {LEAST_DISK / GIB:.0f}", fix)
    return Finding("disk", True, said)


def check_memory(free: int) -> Finding:
    """Memory for one worker of a small model; `validate` checks the need of a given study."""
    said = f"{free / GIB:.1f} GiB free"
    if free < LEAST_MEMORY:
        said = f"{said}, expected at least {LEAST_MEMORY / GIB:.0f}"
        return Finding("memory", False, said, "free -g; lower resources.concurrency")
    return Finding("memory", True, said)


def check_clock(sent: float, there: float, received: float) -> Finding:
    """Compare a node's clock with the driver's, which sent at ``sent``, received at ``received``.

    All in Unix seconds. The transfer took an unknown part of that interval, so only a time
    outside the interval counts as skew.
    """
    skew = max(sent - there, there - received, 0.0)
    if skew > MOST_SKEW_SECONDS:
        said = f"differs from the driver's by {skew:.1f} s or more"
        return Finding("clock", False, said, "sudo timedatectl set-ntp true")
    return Finding("clock", True, "no measurable difference from the driver's")
