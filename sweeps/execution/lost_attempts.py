"""Why an attempt of a job was lost, and which node is to blame."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import final

DISTRUST_SECONDS = 600.0
"""How long new groups avoid a node after a fault of its hardware."""


@final
class NodeFaults:
    """Counts the jobs that met a fault of a node's hardware.

    A job that fails everywhere counts once for each node, and so bars none of them for long.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, dict[str, float]] = {}  # node to jobs and the time of their fault

    def add(self, node: str, job: str = "") -> None:
        """``job``: empty if the node could not even start one."""
        self._jobs.setdefault(node, {})[job] = time.monotonic()

    def avoided(self) -> list[str]:
        """The nodes with faults in two jobs, or with one in the last `DISTRUST_SECONDS`."""
        since = time.monotonic() - DISTRUST_SECONDS
        faulty = self._jobs.items()
        return [node for node, jobs in faulty if len(jobs) > 1 or max(jobs.values()) > since]


def cause_of_death(error: str) -> str:
    """What Ray's text about a dead worker says: its process, its machine and how it ended."""
    found = [re.search(rf"{name}: ([^\s,]+)", error) for name in ("pid", "ip")]
    pid, ip = (each[1] if each else "?" for each in found)
    detail = re.search(r"exit detail: ((?:[^.]+\.){1,2})", error)
    how = detail[1].strip(" .") if detail else error.splitlines()[0].strip()
    return f"worker process {pid} on {ip} is gone: {how}"


def stall_texts(stalls: Mapping[int, str]) -> list[str]:
    """Where ranks stall, the place of the fewest first: the others wait for those.

    A rank with an empty place moves.
    """
    ranks: dict[str, list[int]] = {}
    for rank, place in sorted(stalls.items()):
        if place:
            ranks.setdefault(place, []).append(rank)
    return [
        f"rank {', '.join(map(str, those))} stalls in {place}"
        for place, those in sorted(ranks.items(), key=lambda item: len(item[1]))
    ]
