"""What a check says: fine, or what is wrong and the command that mends it.

What a machine has: GPUs, free disk, free memory, a clock that agrees.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import final


@final
@dataclass(frozen=True)
class Finding:
    """One check's answer. ``fix`` is empty where ``ok``, or where there is only something to know
    (``ok`` with a ``fix`` is advice: it works, and could be better)."""

    name: str
    ok: bool
    said: str
    fix: str = ""


GIB = 2**30
LEAST_DISK = 10 * GIB
LEAST_MEMORY = 2 * GIB
MOST_SKEW_SECONDS = 2.0
"""Time stamps of metrics and locks are compared between machines."""


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
    """Whether the operating system has an NVIDIA GPU, whatever torch says."""
    return Path("/proc/driver/nvidia/gpus").is_dir()


def check_gpus(found: list[Gpu], wanted: float, present: bool) -> Finding:
    """``wanted``: GPUs that one worker of a trial asks for; ``present``: the machine has some."""
    if not found and present:
        said = "this machine has an NVIDIA GPU and torch cannot use it"
        fix = 'nvidia-smi; python -c "import torch; print(torch.version.cuda)"'
        return Finding("GPUs", False, said, fix)
    if wanted > len(found):
        said = f"a worker asks for {wanted:g} and {len(found)} are visible"
        return Finding("GPUs", False, said, "set resources.gpus_per_worker=0, or join a cluster")
    if not found:
        return Finding("GPUs", True, "none; trials run on CPUs")
    names = {gpu.name: sum(each.name == gpu.name for each in found) for gpu in found}
    least = min(gpu.memory for gpu in found) / GIB
    said = ", ".join(f"{count} x {name}" for name, count in names.items())
    return Finding("GPUs", True, f"{said}, {least:.0f} GiB each at least")


def free_disk(folder: Path) -> int:
    """Bytes free where ``folder`` lies, or will lie."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(there).free


def check_disk(free: int, folder: Path) -> Finding:
    """Room for checkpoints and models."""
    said = f"{free / GIB:.0f} GiB free at {folder}"
    if free < LEAST_DISK:
        fix = f"df -h {folder}; give another folder, as storage=FOLDER"
        return Finding("disk", False, f"{said}, expected {LEAST_DISK / GIB:.0f} at least", fix)
    return Finding("disk", True, said)


def free_memory() -> int:
    """Bytes that this process may still take: the machine's, or its container's if less."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return min(int(line.split()[1]) * 1024, _container_rest())
    pages: int = os.sysconf("SC_AVPHYS_PAGES")
    return pages * os.sysconf("SC_PAGE_SIZE")


def _container_rest(group: Path = Path("/sys/fs/cgroup")) -> int:
    """What a container's limit leaves (control groups version 2); endless without a limit."""
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return 2**63
    return 2**63 if limit == "max" else max(0, int(limit) - used)


def check_memory(free: int) -> Finding:
    """Memory for one worker of a small model; a study's own need is checked by `validate`."""
    said = f"{free / GIB:.1f} GiB free"
    if free < LEAST_MEMORY:
        said = f"{said}, expected {LEAST_MEMORY / GIB:.0f} at least"
        return Finding("memory", False, said, "free -g; lower resources.concurrency")
    return Finding("memory", True, said)


def check_clock(sent: float, there: float, received: float) -> Finding:
    """A node's clock against the driver's, which asked at ``sent`` and heard at ``received``.

    All in Unix seconds. The answer was on its way for an unknown part of that time, so only what
    lies outside of it counts.
    """
    skew = max(sent - there, there - received, 0.0)
    if skew > MOST_SKEW_SECONDS:
        said = f"differs from the driver's by {skew:.1f} s or more"
        return Finding("clock", False, said, "sudo timedatectl set-ntp true")
    return Finding("clock", True, "the driver's, as far as can be told")
