"""Resident memory of this process; Linux only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

PROC = Path("/proc/self")


def peak_growth(work: Callable[[], object]) -> float:
    """How far `work` raises resident memory above what it is now, at its peak, in MiB.

    Not by getrusage: a spawned process inherits the peak of the one that started it.
    """
    (PROC / "clear_refs").write_text("5")  # the peak starts anew
    before = _mebibytes("VmRSS")
    work()
    return _mebibytes("VmHWM") - before


def _mebibytes(which: str) -> float:
    lines = (PROC / "status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(which))
