"""The display while a study runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TextIO, final

from sweeps.config.trial_keys import shown
from sweeps.execution.study_tally import Tally
from sweeps.storage.terminal_output import folded, heard

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from sweeps.report.trial_row import TrialRow


Phase = Literal[
    "reading data",
    "starting Ray",
    "starting workers",
    "training",
    "measuring speed",
    "scoring test items",
    "writing reports",
    "stopping workers",
]
"""What a sweep does now."""


def recorded_best(row: TrialRow | None) -> dict[str, Any] | None:
    """The best trial of an earlier session, in the form of `Tally.best`."""
    if row is None:
        return None
    kept = {name: getattr(row, name) for name in ("number", "state", "score", "seconds")}
    return {**kept, "point": recorded_point(row), "failure": ""}


def recorded_point(row: TrialRow) -> dict[str, Any]:
    """The point of a recorded trial, in the form that `point_text` takes."""
    hidden = () if row.stage or row.method != "gmt" else ("method",)
    point = {name: value for name, value in row.point().items() if name not in hidden}
    return {**point, "seed": row.seed} if row.stage else point


class Display(ABC):
    """Shows the studies of a sweep, in sequence or in parallel."""

    @abstractmethod
    def say(self, text: str) -> None:
        """Print a permanent line."""

    @abstractmethod
    def phase(self, name: Phase) -> None:
        """Show what the sweep does now; may be called again with the same."""

    @abstractmethod
    def show(self, tally: Tally) -> None:
        """Show the new state of a study."""

    @abstractmethod
    def ended(self, tally: Tally, trial: dict[str, Any]) -> None:
        """Show a trial that ended: ``number, state, score, point, seconds, failure``."""

    @abstractmethod
    def close(self) -> None:
        """Close the display after the last study."""


@final
class LineDisplay(Display):
    """Plain lines: one per phase and per trial that ends."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = heard(stream or sys.stdout)
        self._phase: Phase = "reading data"  # may end in a refusal, which is a sweep's only text

    def say(self, text: str) -> None:
        """Print the line at once."""
        print(text, file=self._stream, flush=True)

    def phase(self, name: Phase) -> None:
        """Print a new phase."""
        if name != self._phase:
            self._phase = name
            self.say(name)

    def show(self, tally: Tally) -> None:
        """Do nothing: only ended trials get a line."""

    def ended(self, tally: Tally, trial: dict[str, Any]) -> None:
        """Print the trial, the best so far and the time left."""
        self.say(f"{ending_line(tally, trial)}{progress(tally)}{_reason(trial)}")

    def close(self) -> None:
        """Do nothing: there is nothing to clear."""


@final
class LiveDisplay(Display):
    """The phase, and one table per running study, redrawn in place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console, self._tallies = Console(), dict[str, Tally]()
        self._phase: Phase = "reading data"
        self._since = time.monotonic()
        # The redrawing thread uses this file too: an exception would end it with a traceback.
        self._console.file = heard(self._console.file)  # type: ignore[arg-type]
        self._live = Live(
            console=self._console,
            refresh_per_second=4,
            transient=True,
            get_renderable=self._view,
        )
        self._live.start()

    def say(self, text: str) -> None:
        """Print above the table."""
        text = folded(text, self._console.width)
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def phase(self, name: Phase) -> None:
        """Show the phase and its seconds below the tables."""
        if name != self._phase:
            self._phase, self._since = name, time.monotonic()

    def show(self, tally: Tally) -> None:
        """Add the table, which is redrawn until its study is done."""
        self._tallies[tally.domain] = tally

    def ended(self, tally: Tally, trial: dict[str, Any]) -> None:
        """Print the trial above the table."""
        self.say(f"{ending_line(tally, trial)}{_reason(trial)}")

    def close(self) -> None:
        """Remove the table from the screen."""
        self._live.stop()

    def _view(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        seconds = time_text(time.monotonic() - self._since)
        tables = (table(tally) for tally in [*self._tallies.values()] if tally.left())
        return Group(*tables, Text(f"{self._phase} ({seconds})"))


def build_display() -> Display:
    """The live table on a terminal, plain lines in a pipe or a log file."""
    return LiveDisplay() if sys.stdout.isatty() else LineDisplay()


POINT_LEGEND = "mask: mask ratio, N: accumulation interval, lr: learning rate"
"""Explains the output of `point_text`."""


_WIDTHS = {"method": 12, "accumulation_interval": 4}
_LAST = ("seed", "stage")


def point_words(point: Mapping[str, Any]) -> dict[str, str]:
    """The values of a point by parameter, each in a few words; without the stage."""
    words = {"method": str(point["method"])} if "method" in point else {}
    words["mask_ratio"] = f"mask {point['mask_ratio']:.2f}"
    words["accumulation_interval"] = f"N {point['accumulation_interval']}"
    words["learning_rate"] = f"lr {point['learning_rate']:.1e}".replace("e-0", "e-")
    others = {k: v for k, v in point.items() if k not in words and k not in _LAST}
    if others.get("train_fraction") == 1:
        del others["train_fraction"]
    words |= {name: f"{name} {shown(value)}" for name, value in others.items()}
    return words | ({"seed": f"seed {point['seed']}"} if "seed" in point else {})


def point_text(point: Mapping[str, Any]) -> str:
    """``mask 0.20  N 4   lr 1.0e-3``, in columns, with method and seed if these vary."""
    words = point_words(point).items()
    return "  ".join(f"{text:<{_WIDTHS.get(name, 0)}}" for name, text in words)


def point_name(point: Mapping[str, Any]) -> str:
    """``mask 0.20, N 4, lr 1.0e-3, seed 0``."""
    return ", ".join(point_words(point).values())


_WHERE = {"log": "log", "alone": "command"}


def ending_line(tally: Tally, trial: dict[str, Any]) -> str:
    """One ended trial: its number, point, score and seconds."""
    score = "no score" if trial["score"] is None else f"score {trial['score']:.4f}"
    words = {"stopped_early": "stopped early", "stopped_by_user": "stopped by the user"}
    score += f" (violates {', '.join(trial['violated'])})" if trial.get("violated") else ""
    return (
        f"{tally.domain}  trial {trial['number']:>3}  {point_text(trial['point'])}  {score}  "
        f"{words.get(trial['state'], trial['state'])} in {trial['seconds']:.0f} s"
    )


def progress(tally: Tally) -> str:
    """The best trial so far, the trials that are done, and the time left once it is known."""
    best = "" if tally.best is None else f"  best {tally.best['score']:.4f}"
    return f"{best}  [{tally.done()}/{tally.trials}{left_text(tally.seconds_left())}]"


def _reason(trial: dict[str, Any]) -> str:
    """The cause of a failed trial, its log and the command that repeats it."""
    if not trial["failure"]:
        return ""
    lines = [trial["failure"].splitlines()[0]]
    lines += [f"{word}: {trial[name]}" for word, name in _WHERE.items() if name in trial]
    return "".join(f"\n    {line}" for line in lines)


def time_text(seconds: float) -> str:
    """``1 h 05 min``, ``3 min 20 s``, ``12 s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def left_text(seconds: float | None) -> str:
    """``, ~3 min 20 s left``, to 10 s from a minute on; empty without an estimate."""
    if seconds is None:
        return ""
    return f", ~{time_text(round(seconds, -1) if seconds >= 60 else seconds)} left"


def table(tally: Tally) -> Table:
    """The live table: trials by state, the best so far, running trials, the time left."""
    from rich.table import Table

    endings = [*tally.endings.items()]
    counts = ", ".join(f"{n} {state.replace('_', ' ')}" for state, n in endings)
    result = Table(title=f"{tally.domain}: {tally.done()} of {tally.trials} trials", expand=False)
    for column in ("trial", "point", "step", "score"):
        result.add_column(column)
    for running in [*tally.running.values()]:  # another thread adds some
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
    result.caption = f"{counts or 'none ended yet'}{left_text(tally.seconds_left())}"
    return result
