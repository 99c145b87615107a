"""What a person sees while a study runs."""

from __future__ import annotations

import io
import time
from functools import partial
from typing import Any

import pytest
from rich.console import Console

from sweeps.execution.progress import (
    LineDisplay,
    LiveDisplay,
    Tally,
    build_display,
    ending_line,
    table,
    time_text,
)
from tests.sweeps.ended_trial import POINT, TRIAL


def tally(**changes: Any) -> Tally:
    return Tally("sums", trials=12, finished_before=3, concurrency=2, **changes)


def test_a_tally_counts_this_session_and_the_ones_before() -> None:
    state = tally(started=time.monotonic() - 60)
    assert (state.done(), state.left(), state.seconds_left()) == (3, 9, None)
    state.endings.update({"finished": 2, "failed": 1})
    assert (state.done(), state.left()) == (6, 6)
    # 3 endings in 60 s, whatever an earlier session did: 20 s for each of the 6 that are left.
    assert state.seconds_left() == pytest.approx(120, abs=5)


def test_the_time_left_does_not_count_how_long_the_first_workers_took_to_start() -> None:
    state = tally(started=time.monotonic() - 600)
    state.heard()
    state.started -= 30  # half a minute later
    state.endings["finished"] = 3
    state.heard()
    assert state.seconds_left() == pytest.approx(60, abs=5)


def test_a_line_says_which_trial_and_how_it_ended() -> None:
    state = tally(best={**TRIAL, "score": 0.625})
    line = ending_line(state, TRIAL)
    for words in ("sums  trial   2", "mask 0.20  N 4", "lr 1.0e-3", "score 0.5000"):
        assert words in line
    assert "finished in 12 s  best 0.6250  [3/12, ? left]" in line


def test_a_failure_shows_its_first_line_where_the_rest_lies_and_what_repeats_it() -> None:
    failed = {**TRIAL, "score": None, "state": "failed", "failure": "out of memory\nTraceback"}
    where = {"log": "t2/failure.log", "command": "python -m sweeps finetune t2/run.yaml"}
    shown = ending_line(tally(), {**failed, **where}).splitlines()
    assert "no score" in shown[0]
    assert shown[1:] == [
        "    out of memory",
        "    log: t2/failure.log",
        "    alone: python -m sweeps finetune t2/run.yaml",
    ]
    assert ending_line(tally(), failed).endswith("\n    out of memory")


def test_stopped_early_is_two_words() -> None:
    assert "stopped early in 12 s" in ending_line(tally(), {**TRIAL, "state": "stopped_early"})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (0.2, "0 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (3900, "1 h 05 min"),
    ],
)
def test_times_read_well(seconds: float | None, text: str) -> None:
    assert time_text(seconds) == text


def test_the_table_shows_what_runs_and_the_best() -> None:
    state = tally(best=TRIAL)
    state.endings["stopped_early"] = 2
    state.running["a"] = {"number": 4, "point": POINT}
    state.running["b"] = {"number": 5, "point": POINT, "step": 3, "steps": 8, "score": 0.25}
    console = Console(file=io.StringIO(), width=100)
    console.print(table(state))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for words in ("5 of 12 trials", "starting", "3/8", "0.2500", "best", "0.5000"):
        assert words in shown
    assert "2 stopped early" in shown


def test_plain_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    display = LineDisplay(stream)
    display.say("sums: 3 trials to run")
    display.show(tally())
    display.ended(tally(), TRIAL)
    display.close()
    lines = stream.getvalue().splitlines()
    assert lines == ["sums: 3 trials to run", ending_line(tally(), TRIAL)]
    assert isinstance(build_display(), LineDisplay)  # pytest's stdout is none


def test_on_a_terminal_each_study_that_runs_has_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = partial(Console, file=screen, width=100, force_terminal=True)
    monkeypatch.setattr("rich.console.Console", terminal)
    display, runs = LiveDisplay(), {"k": {"number": 2, "point": POINT}}
    display.show(Tally("code", trials=2, finished_before=2, concurrency=2))
    display.show(Tally("sums", trials=12, finished_before=3, concurrency=2, running=runs))
    display.show(Tally("words", trials=4, finished_before=0, concurrency=2))
    screen.truncate(0)
    display._live.refresh()
    shown = screen.getvalue()
    display.close()
    assert "sums: 3 of 12 trials" in shown
    assert "words: 0 of 4 trials" in shown
    assert shown.rindex("sums:") < shown.rindex("words:")
    assert "code:" not in shown
