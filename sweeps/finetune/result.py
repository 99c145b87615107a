"""How a run ended, and its record in the run's folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from sweeps.finetune.identity import OtherRunError
from sweeps.finetune.whole_file import write_whole

RESULT_FILE = "result.json"
"""In the run's folder, once it has ended."""


@dataclass(frozen=True)
class RunResult:
    """The end of a run: `score` (higher is better) is of the last check on validation items.

    `stopped`: the reporter said so; `diverged`: a loss, gradient, weight or score was not
    finite, and `reason` says which. `step` counts the updates done, `model_folder` holds the
    final model.
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
    write_whole(folder / RESULT_FILE, json.dumps(record, indent=1))


def read_result(folder: Path, fingerprint: str) -> RunResult | None:
    """The recorded result, or None; ValueError when it is another run's."""
    path = folder / RESULT_FILE
    if not path.is_file():
        return None
    record = json.loads(path.read_text())
    if (other := record.pop("fingerprint")) != fingerprint:
        raise OtherRunError(folder, "result", other)
    return RunResult(**record)


def forget_result(folder: Path) -> None:
    """Remove the record, so that the run is run again."""
    (folder / RESULT_FILE).unlink(missing_ok=True)
