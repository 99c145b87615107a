"""What a person sees while a study runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO, final

from sweeps.storage.closed_output import heard

if TYPE_CHECKING:
    from rich.table import Table

    from sweeps.report.trial_row import TrialRow


@dataclass
class Tally:
    """The state of one study, as its observer keeps it. Seconds are wall time; ``started``: when
    its pace begins to count, which the first groups of workers, that start slowly, put off."""

    domain: str
    trials: int
    finished_before: int
    concurrency: int
    started: float = field(default_factory=time.monotonic)
    endings: Counter[str] = field(default_factory=Counter)
    running: dict[str, dict[str, Any]] = field(default_factory=dict)
    best: dict[str, Any] | None = None
    is_under_way: bool = False

    def heard(self) -> None:
        """A trial was validated; before the first one, workers were still starting."""
        if not self.is_under_way:
            self.is_under_way, self.started = True, time.monotonic()

    def done(self) -> int:
        """Trials that need no further work."""
        return self.finished_before + sum(self.endings.values())

    def left(self) -> int:
        """Trials still to end."""
        return max(0, self.trials - self.done())

    def seconds_left(self) -> float | None:
        """An estimate from this session's pace; None before its first trial has ended."""
        ended = sum(self.endings.values())
        if not ended:
            return None
        return (time.monotonic() - self.started) / ended * self.left()


def recorded_best(row: TrialRow | None) -> dict[str, Any] | None:
    """An earlier session's best trial, as `Tally.best` holds it."""
    if row is None:
        return None
    kept = {name: getattr(row, name) for name in ("number", "state", "score", "seconds")}
    return {**kept, "point": recorded_point(row), "failure": ""}


def recorded_point(row: TrialRow) -> dict[str, Any]:
    """A recorded trial's point, as `point_text` takes it."""
    names: tuple[str, ...] = ("mask_ratio", "accumulation_interval", "learning_rate")
    names += ("method", "seed") if row.stage else ("method",) if row.method != "gmt" else ()
    return {name: getattr(row, name) for name in names}


class Display(ABC):
    """Shows the studies of a sweep, one after another or side by side."""

    @abstractmethod
    def say(self, text: str) -> None:
        """One line that stays."""

    @abstractmethod
    def show(self, tally: Tally) -> None:
        """The study's state has changed."""

    @abstractmethod
    def ended(self, tally: Tally, trial: dict[str, Any]) -> None:
        """A trial has ended: ``number, state, score, point, seconds, failure``."""

    @abstractmethod
    def close(self) -> None:
        """The last study is over."""


@final
class LineDisplay(Display):
    """Plain lines: one for each trial that ends."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = heard(stream or sys.stdout)

    def say(self, text: str) -> None:
        """Print the line at once."""
        print(text, file=self._stream, flush=True)

    def show(self, tally: Tally) -> None:
        """Nothing between endings."""

    def ended(self, tally: Tally, trial: dict[str, Any]) -> None:
        """Print the trial, the best so far and the time left."""
        self.say(ending_line(tally, trial))

    def close(self) -> None:
        """Nothing to clear."""


@final
class LiveDisplay(Display):
    """A table that redraws itself in place, for each study that runs trials."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console, self._tallies = Console(), dict[str, Tally]()
        # Also for the thread that redraws: what it raises would end it with a traceback.
        self._console.file = heard(self._console.file)  # type: ignore[arg-type]
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._live.start()

    def say(self, text: str) -> None:
        """Print above the table."""
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def show(self, tally: Tally) -> None:
        """Redraw the table."""
        from rich.console import Group

        self._tallies[tally.domain] = tally
        self._live.update(Group(*(table(t) for t in self._tallies.values() if t.left())))

    def ended(self, tally: Tally, trial: dict[str, Any]) -> None:
        """Print the trial above the table and redraw it."""
        self.say(ending_line(tally, trial))
        self.show(tally)

    def close(self) -> None:
        """Take the table off the screen."""
        self._live.stop()


def build_display() -> Display:
    """The live table on a terminal, plain lines in a pipe or a log file."""
    return LiveDisplay() if sys.stdout.isatty() else LineDisplay()


POINT_LEGEND = "mask: mask ratio, N: accumulation interval, lr: learning rate"
"""What `point_text` says."""


def point_text(point: dict[str, Any]) -> str:
    """``mask 0.20  N 4  lr 1.0e-03``, with method and seed where these vary."""
    given = f"{point['method']:<13} " if "method" in point else ""
    given += f"s{point['seed']}  " if "seed" in point else ""
    return (
        f"{given}"
        f"mask {point['mask_ratio']:.2f}  N {point['accumulation_interval']:<2}  "
        f"lr {point['learning_rate']:.1e}"
    )


_WHERE = {"log": "log", "alone": "command"}


def ending_line(tally: Tally, trial: dict[str, Any]) -> str:
    """One ended trial: its place, point, score, and what is left of the study."""
    score = "no score" if trial["score"] is None else f"score {trial['score']:.4f}"
    words = {"stopped_early": "stopped early", "interrupted": "interrupted"}
    best = "" if tally.best is None else f"  best {tally.best['score']:.4f}"
    return (
        f"{tally.domain}  trial {trial['number']:>3}  {point_text(trial['point'])}  {score}  "
        f"{words.get(trial['state'], trial['state'])} in {trial['seconds']:.0f} s{best}  "
        f"[{tally.done()}/{tally.trials}, {time_text(tally.seconds_left())} left]{_reason(trial)}"
    )


def _reason(trial: dict[str, Any]) -> str:
    """Of a failed trial why, where all of it is written, and what repeats it."""
    if not trial["failure"]:
        return ""
    lines = [trial["failure"].splitlines()[0]]
    lines += [f"{word}: {trial[name]}" for word, name in _WHERE.items() if name in trial]
    return "".join(f"\n    {line}" for line in lines)


def time_text(seconds: float | None) -> str:
    """``1 h 05 min``, ``3 min 20 s``, ``12 s``; ``?`` when there is no estimate yet."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def table(tally: Tally) -> Table:
    """The live table: trials by state, the best so far, what runs now, the time left."""
    from rich.table import Table

    counts = ", ".join(f"{n} {state.replace('_', ' ')}" for state, n in tally.endings.items())
    result = Table(title=f"{tally.domain}: {tally.done()} of {tally.trials} trials", expand=False)
    for column in ("trial", "point", "step", "score"):
        result.add_column(column)
    for running in tally.running.values():
        score = running.get("score")
        result.add_row(
            str(running["number"]),
            point_text(running["point"]),
            f"{running['step']}/{running['steps']}" if "step" in running else "starting",
            "" if score is None else f"{score:.4f}",
        )
    best = tally.best
    if best is not None:
        result.add_section()
        result.add_row("best", point_text(best["point"]), "", f"{best['score']:.4f}")
    result.caption = f"{counts or 'none ended yet'}; {time_text(tally.seconds_left())} left"
    return result
