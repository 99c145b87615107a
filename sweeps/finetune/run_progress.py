"""Show the progress of a single run: a bar with the time left, or plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TextIO, final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sweeps.finetune.reporter import Check
from sweeps.storage.terminal_output import heard

_LINE_SECONDS = 30.0


@final
class ProgressReporter:
    """Shows the updates of a run of `steps`: a bar on a terminal, else a line every 30 s."""

    def __init__(self, steps: int, stream: TextIO | None = None) -> None:
        """Write to `stream` (default: standard error)."""
        self._stream = heard(stream or sys.stderr)
        self._steps = steps
        self._words: dict[str, Any] = {"loss": "-", "score": "-"}
        self._first: tuple[int, float] | None = None
        self._said = time.monotonic()
        self._bar = self._new_bar() if self._stream.isatty() else None

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Update the display to `step`."""
        self._words["loss"] = f"{metrics['train/loss']:.4f}"
        # A resumed run does not begin at 1, and its pace is this session's.
        self._first = self._first or (step, time.monotonic())
        self._show(step, time.monotonic() - self._said > _LINE_SECONDS)

    def check(self, check: Check) -> bool:
        """Show the score; never stops the run."""
        self._words["score"] = f"{check.score:.4f}"
        self._show(check.step, True)
        return True

    def close(self) -> None:
        """Restore the terminal; may be called again."""
        if self._bar is not None:
            self._bar.stop()

    def seconds_left(self, step: int) -> float | None:
        """An estimate from this process's pace; None before its second update."""
        if self._first is None or step <= self._first[0]:
            return None
        pace = (time.monotonic() - self._first[1]) / (step - self._first[0])
        return pace * (self._steps - step)

    def _show(self, step: int, is_due: bool) -> None:
        """Update the bar, or print a line if one is due."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, **self._words)
        elif is_due:
            self._said, left = time.monotonic(), self.seconds_left(step)
            tail = "" if left is None else f", ~{timedelta(seconds=round(left))} left"
            words = f"loss {self._words['loss']}, score {self._words['score']}"
            print(f"update {step}/{self._steps}: {words}{tail}", file=self._stream, flush=True)

    def _new_bar(self) -> Progress:
        bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  score {task.fields[score]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(file=self._stream),
        )
        bar.add_task("updates", total=self._steps, **self._words)
        bar.start()
        return bar
