"""What a person sees of a whole run of the demo's math domain, in a terminal of tmux.

    python benchmarks/seen_run.py --runs 10 --columns 80

Captures the screen twice a second and prints, for each run: the moments without a named phase, the
lines that the terminal broke, and the median relative error of the time left that was shown, from
a quarter of the trials on until the last trial ended.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, final, get_args

import yaml

from sweeps.execution.progress import Phase

ROOT = Path(__file__).parents[1]
TARGET = 0.25
LOOK_SECONDS, MOST_SECONDS, LINES = 0.5, 900.0, 40
PHASE = re.compile(rf"^({'|'.join(get_args(Phase))}) \(", re.MULTILINE)
DONE = re.compile(r"(\d+) of (\d+) trials")
LEFT = re.compile(r"~(?:(\d+) h )?(?:(\d+) min )?(?:(\d+) s )?left")


@final
@dataclass(frozen=True)
class Screen:
    """What the terminal showed ``seconds`` after the start; broken lines are joined."""

    seconds: float
    text: str

    def phase(self) -> str:
        """The phase on the screen; empty if there is none."""
        found = PHASE.findall(self.text)
        return found[-1] if found else ""

    def share(self) -> float:
        """The share of trials that are done; 0 if the screen does not say."""
        found = DONE.search(self.text)
        return int(found[1]) / int(found[2]) if found else 0.0

    def left(self) -> float | None:
        """The seconds left that are shown, if any."""
        found = LEFT.search(" ".join(self.text.split()))
        if found is None:
            return None
        hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return 3600.0 * hours + 60 * minutes + seconds


def tmux(*arguments: str) -> str:
    """The output of a command to a tmux server of this benchmark's own; empty if it fails."""
    command = ["tmux", "-L", "seen_run", "-f", "/dev/null", *arguments]
    return subprocess.run(command, capture_output=True, text=True).stdout


def screens(command: Sequence[str], columns: int) -> Iterator[Screen]:
    """Run a command in a terminal; the last screen is that of its end."""
    size = ("-x", str(columns), "-y", str(LINES))
    session = ("new-session", "-d", *size, "-c", str(ROOT), shlex.join(command))
    tmux("start-server", ";", "set-option", "-g", "remain-on-exit", "on", ";", *session)
    began, is_over = time.monotonic(), False
    try:
        while not is_over and time.monotonic() - began < MOST_SECONDS:
            time.sleep(LOOK_SECONDS)
            is_over = tmux("display-message", "-p", "#{pane_dead}").strip() != "0"
            yield Screen(time.monotonic() - began, tmux("capture-pane", "-p", "-J"))
    finally:
        tmux("kill-server")


def errors(seen: Sequence[Screen]) -> list[float]:
    """The relative errors of the time left, from a quarter of the trials to the last one's end."""
    end = max(screen.seconds for screen in seen if screen.phase() == "training")
    found = []
    for screen in seen:
        left = screen.left()
        if left is not None and screen.share() >= 0.25 and screen.seconds < end:
            found.append(abs(left - (end - screen.seconds)) / (end - screen.seconds))
    return found


def broken(seen: Sequence[Screen], columns: int) -> set[str]:
    """The lines that did not fit, except those with a word that is longer than a line."""
    lines = {line.rstrip() for screen in seen for line in screen.text.splitlines()}
    return {
        line for line in lines if len(line) > columns > max(len(word) for word in line.split())
    }


def configuration(storage: Path) -> dict[str, Any]:
    """The demo with its math domain alone."""
    tree: dict[str, Any] = yaml.safe_load((ROOT / "sweeps/configs/mini.yaml").read_text())
    domains = {"math": tree["domains"]["math"]}
    return {**tree, "name": "seen", "storage": str(storage), "domains": domains}


def run(columns: int, overrides: Sequence[str]) -> list[Screen]:
    """The screens of one run."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "seen.yaml"
        file.write_text(yaml.safe_dump(configuration(Path(folder) / "runs")))
        command = [sys.executable, "-m", "sweeps", "run", str(file), *overrides]
        return list(screens(command, columns))


def main() -> None:
    """Run, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--columns", type=int, default=80)
    parser.add_argument("--screens", type=Path, help="A folder for the screens of each run.")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    medians = []
    for number in range(given.runs):
        seen = run(given.columns, given.overrides)
        if given.screens is not None:
            given.screens.mkdir(parents=True, exist_ok=True)
            pages = (f"==== {one.seconds:.1f} s\n{one.text.rstrip()}\n" for one in seen)
            (given.screens / f"{given.columns}-{number}.txt").write_text("".join(pages))
        running = [one for one in seen if "report.html" not in one.text]
        silent = [round(one.seconds, 1) for one in running if not one.phase()]
        medians.append(median(errors(seen)))
        print(
            f"run {number}: {seen[-1].seconds:.0f} s; without a phase at {silent} s; broken lines "
            f"{sorted(broken(seen, given.columns))}; median error {medians[-1]:.3f}",
            flush=True,
        )
    verdict = "reached" if median(medians) < TARGET else "missed"
    print(f"median of {len(medians)} runs {median(medians):.3f}: target {TARGET} {verdict}")


if __name__ == "__main__":
    main()
