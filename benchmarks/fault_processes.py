"""The processes of a sweep: found by parent, by title, or by a mark in their environment."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

MARK = "GMT_FAULTS_SWEEP"
"""The variable that a sweep's processes inherit, those that left its process group included."""


def descendants(pid: int) -> list[int]:
    """The living processes below one."""
    children: dict[int, list[int]] = {}
    for child in _all():
        if (stat := _stat(child)) is not None:
            children.setdefault(int(stat[1]), []).append(child)
    found, waiting = list[int](), [pid]
    while waiting:
        new = children.get(waiting.pop(), [])
        found += new
        waiting += new
    return found


def marked(mark: str) -> list[int]:
    """The living processes whose environment has this mark."""
    wanted = f"{MARK}={mark}\0".encode()
    return [pid for pid in _all() if wanted in _read(pid, "environ") + b"\0" and is_alive(pid)]


def title(pid: int) -> str:
    """What a process calls itself: Ray names its actors; empty once it is gone."""
    return _read(pid, "cmdline").split(b"\0")[0].decode(errors="replace")


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    stat = _stat(pid)
    return stat is not None and stat[0] != "Z"


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process, if it is still there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def kill(pids: Sequence[int]) -> None:
    """kill -9."""
    for pid in pids:
        send(pid, signal.SIGKILL)


def wait_until_gone(mark: str, seconds: float) -> list[int]:
    """The marked processes that are still alive after this time."""
    end = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < end:
        time.sleep(0.5)
    return left


def _all() -> list[int]:
    return [int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal()]


def _stat(pid: int) -> list[str] | None:
    """State, parent and so on."""
    return _read(pid, "stat").decode(errors="replace").rpartition(")")[2].split() or None


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
