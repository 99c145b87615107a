"""How a run tells the outside what happens, and how the outside tells it to stop."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, final


@dataclass(frozen=True)
class Check:
    """One validation check: `score` (higher is better) after `step` of `steps` updates."""

    step: int
    steps: int
    score: float
    metrics: dict[str, float] = field(default_factory=dict)
    done: bool = False


class Reporter(Protocol):
    """Called on every rank, in the same order on each; rank 0 is the one that records.

    After a resume the steps since the last checkpoint arrive a second time, with equal
    numbers (timings apart): an implementation is idempotent by step.
    """

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of optimizer update `step` (1-based)."""

    def check(self, check: Check) -> bool:
        """Take a validation check; False, on every rank alike, stops the run now."""


@final
class FolderReporter:
    """Single runs: one JSON line per update in folder/metrics.jsonl, a bar on a terminal."""

    def __init__(self, folder: Path, *, rank: int = 0) -> None:
        """Record in `folder` when `rank` is 0; other ranks stay silent."""
        self._path = folder / "metrics.jsonl"
        self._records = rank == 0
        if self._records:
            folder.mkdir(parents=True, exist_ok=True)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line."""
        self._append({"step": step, **metrics})

    def check(self, check: Check) -> bool:
        """Append one line, draw the bar, never stop."""
        self._append({"step": check.step, "eval/score": check.score, **check.metrics})
        if self._records and sys.stderr.isatty():
            done = round(30 * check.step / check.steps)
            bar = "#" * done + "-" * (30 - done)
            end = "\n" if check.done else ""
            print(
                f"\r[{bar}] {check.step}/{check.steps} score {check.score:.4f}",
                end=end,
                file=sys.stderr,
                flush=True,
            )
        return True

    def _append(self, record: Mapping[str, float]) -> None:
        if self._records:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record) + "\n")
