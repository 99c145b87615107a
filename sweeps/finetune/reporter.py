"""How a run reports its progress and can be stopped, and the record of its result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Protocol, final

from sweeps.finetune.run_identity import OtherRunError
from sweeps.storage.atomic_io import atomic_write
from sweeps.storage.trial_files import RESULT_FILE


@dataclass(frozen=True)
class RunResult:
    """The end of a run: `score` (higher is better) is that of the last validation check.

    `stopped`: by the reporter. `diverged`: a loss, gradient, weight or score was not finite;
    `reason` says which. `step` counts the updates done; `model_folder` holds the final model.
    """

    state: Literal["finished", "stopped", "diverged"]
    step: int
    steps: int
    score: float | None
    metrics: dict[str, float] = field(default_factory=dict)
    model_folder: str | None = None
    reason: str = ""


def write_result(folder: Path, fingerprint: str, result: RunResult) -> None:
    """Record the result of the run with `fingerprint`, atomically."""
    record = {"fingerprint": fingerprint, **asdict(result)}
    atomic_write(folder / RESULT_FILE, json.dumps(record, indent=1))


def read_result(folder: Path, fingerprint: str) -> RunResult | None:
    """The recorded result, or None; ValueError if it belongs to another run."""
    path = folder / RESULT_FILE
    if not path.is_file():
        return None
    record = json.loads(path.read_text())
    if (other := record.pop("fingerprint")) != fingerprint:
        raise OtherRunError(folder, "result", other)
    return RunResult(**record)


@dataclass(frozen=True)
class Check:
    """One validation check: `score` (higher is better) after `step` of `steps` updates."""

    step: int
    steps: int
    score: float
    metrics: dict[str, float] = field(default_factory=dict)
    done: bool = False


class Reporter(Protocol):
    """Called on every rank in the same order; rank 0 records.

    After a resume, the steps since the last checkpoint are reported again with equal values
    (except timings), so implementations must be idempotent by step.
    """

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Receive the metrics of optimizer update `step` (1-based)."""

    def check(self, check: Check) -> bool:
        """Receive a validation check; False, which must be equal on all ranks, stops the run."""


@final
class FolderReporter:
    """Writes one JSON line per update and check to folder/metrics.jsonl, without duplicates."""

    def __init__(self, folder: Path) -> None:
        """Record in `folder`; for rank 0."""
        self._path = folder / "metrics.jsonl"
        self._seen: set[tuple[str, int]] = set()
        folder.mkdir(parents=True, exist_ok=True)
        self._take_up()

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line."""
        self._append("step", step, metrics)

    def check(self, check: Check) -> bool:
        """Append one line; never stops the run."""
        self._append("check", check.step, {"eval/score": check.score, **check.metrics})
        return True

    def _take_up(self) -> None:
        """Keep the complete lines of an earlier process; a kill may leave a truncated one."""
        if not self._path.is_file():
            return
        whole, _, _ = self._path.read_text(encoding="utf-8").rpartition("\n")
        lines = [json.loads(line) for line in whole.split("\n") if line]
        self._seen = {(line["kind"], line["step"]) for line in lines}
        self._path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def _append(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        if (kind, step) not in self._seen:
            self._seen.add((kind, step))
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"kind": kind, "step": step, **metrics}) + "\n")


@final
class SeveralReporters:
    """Passes events to several reporters; stops the run if any of them says so."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Pass the step to all reporters."""
        for reporter in self._reporters:
            reporter.step(step, metrics)

    def check(self, check: Check) -> bool:
        """Pass the check to all reporters; False if any returns False."""
        return all([reporter.check(check) for reporter in self._reporters])
