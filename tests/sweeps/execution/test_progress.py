"""What a person sees while a study runs."""

from __future__ import annotations

import io
import re
from functools import partial
from typing import Any

import pytest
from rich.console import Console

from sweeps.execution.progress import (
    LineDisplay,
    LiveDisplay,
    build_display,
    ending_line,
    left_text,
    progress,
    table,
    time_text,
)
from sweeps.execution.study_tally import Tally
from tests.sweeps.ended_trial import POINT, TRIAL


def tally(**changes: Any) -> Tally:
    return Tally("sums", trials=12, finished_before=3, **changes)


def test_a_tally_counts_this_session_and_the_ones_before() -> None:
    state = tally()
    state.begin("a", 3, POINT)
    state.begin("b", 4, POINT)
    assert (state.done(), state.left(), state.seconds_left()) == (3, 9, None)
    state.end("a", {**TRIAL, "seconds": 20.0})
    assert (state.done(), state.left(), state.endings) == (4, 8, {"finished": 1})
    # Two at a time: one runs, seven wait, and each takes 20 s.
    assert state.seconds_left() == pytest.approx(80, abs=1)


def test_the_time_left_follows_the_checks_of_running_trials() -> None:
    state = Tally("sums", trials=3, finished_before=0)
    for key in "abc":
        state.begin(key, 0, POINT)
    state.end("a", {**TRIAL, "seconds": 40.0})
    assert state.seconds_left() == pytest.approx(40, abs=1)
    state.check("b", {"step": 6, "steps": 8, "score": 0.5})
    assert state.seconds_left() == pytest.approx(40, abs=1)  # c has not been heard of
    state.check("c", {"step": 4, "steps": 8, "score": 0.5})
    assert state.seconds_left() == pytest.approx(20, abs=1)
    state.running["c"]["heard"] -= 15
    assert state.seconds_left() == pytest.approx(10, abs=1)
    state.running["c"]["heard"] -= 60
    assert state.seconds_left() == pytest.approx(10, abs=1)  # b; c is late
    state.check("gone", {"step": 1})
    assert set(state.running) == {"b", "c"}


def naive_seconds_left(running: list[float], waiting: int, each: float, slots: int) -> float:
    """Start a trial whenever a slot is free, a second at a time."""
    now, busy = 0.0, list(running)
    while busy or waiting:
        while waiting and len(busy) < slots:
            busy.append(each)
            waiting -= 1
        now += 1
        busy = [left - 1 for left in busy if left > 1]
    return now


@pytest.mark.parametrize(("slots", "trials"), [(1, 4), (2, 9), (3, 5), (5, 5), (4, 31)])
def test_the_time_left_equals_a_schedule_second_by_second(slots: int, trials: int) -> None:
    state = Tally("sums", trials=trials + 1, finished_before=0)
    for key in range(slots):
        state.begin(str(key), key, POINT)
    state.end("0", {**TRIAL, "seconds": 12.0})
    shares = [(key % 4) / 4 for key in range(1, slots)]
    for key, share in enumerate(shares, start=1):
        state.check(str(key), {"step": 4 * share, "steps": 4})
    running = [12 * (1 - share) for share in shares]
    wanted = naive_seconds_left(running, trials - len(running), 12, slots)
    assert state.seconds_left() == pytest.approx(wanted, abs=0.5)


def test_a_line_says_which_trial_how_it_ended_and_what_is_left() -> None:
    state = tally(best={**TRIAL, "score": 0.625})
    line = ending_line(state, TRIAL)
    assert line == "sums  trial   2  mask 0.20  N 4   lr 1.0e-3  score 0.5000  finished in 12 s"
    assert progress(state) == "  best 0.6250  [3/12]"
    state.end("a", {**TRIAL, "seconds": 0.0})
    assert progress(state) == "  best 0.6250  [4/12, ~0 s left]"


def test_a_failure_shows_its_first_line_where_the_rest_lies_and_what_repeats_it() -> None:
    failed = {**TRIAL, "score": None, "state": "failed", "failure": "out of memory\nTraceback"}
    where = {"log": "t2/failure.log", "command": "python -m sweeps finetune t2/run.yaml"}
    stream = io.StringIO()
    display = LineDisplay(stream)
    display.ended(tally(), {**failed, **where})
    display.ended(tally(), failed)
    shown = stream.getvalue().splitlines()
    assert "no score" in shown[0] and shown[0].endswith("[3/12]")
    assert shown[1:4] == [
        "    out of memory",
        "    log: t2/failure.log",
        "    alone: python -m sweeps finetune t2/run.yaml",
    ]
    assert shown[5:] == ["    out of memory"]


def test_stopped_early_is_two_words() -> None:
    assert "stopped early in 12 s" in ending_line(tally(), {**TRIAL, "state": "stopped_early"})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (3900, "1 h 05 min"),
    ],
)
def test_times_read_well(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (12.4, ", ~12 s left"),
        (83.0, ", ~1 min 20 s left"),
        (3900, ", ~1 h 05 min left"),
    ],
)
def test_the_time_left_is_an_estimate(seconds: float | None, text: str) -> None:
    assert left_text(seconds) == text


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
    display.phase("reading data")
    display.phase("training")
    display.say("sums: 3 trials to run")
    display.phase("training")
    display.show(tally())
    display.ended(tally(), TRIAL)
    display.close()
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["training", "sums: 3 trials to run"]
    assert lines[2:] == [f"{ending_line(tally(), TRIAL)}  [3/12]"]
    assert isinstance(build_display(), LineDisplay)  # pytest's stdout is none


def test_on_a_terminal_each_study_that_runs_has_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = partial(Console, file=screen, width=100, force_terminal=True)
    monkeypatch.setattr("rich.console.Console", terminal)
    display, runs = LiveDisplay(), {"k": {"number": 2, "point": POINT}}
    display.phase("starting workers")
    display.show(Tally("code", trials=2, finished_before=2))
    display.show(Tally("sums", trials=12, finished_before=3, running=runs))
    display.show(Tally("words", trials=4, finished_before=0))
    screen.truncate(0)
    display._live.refresh()
    shown = screen.getvalue()
    display.close()
    assert "sums: 3 of 12 trials" in shown
    assert "words: 0 of 4 trials" in shown
    assert shown.rindex("sums:") < shown.rindex("words:")
    assert "code:" not in shown
    assert shown.rindex("starting workers (0 s)") > shown.rindex("words:")


def test_no_line_of_the_live_display_breaks_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = partial(Console, file=screen, width=80, force_terminal=True)
    monkeypatch.setattr("rich.console.Console", terminal)
    display, state = LiveDisplay(), tally()
    point = {**POINT, "weight_decay": 0.01, "warmup_ratio": 0.05, "schedule": "cosine"}
    state.begin("a", 4, point)
    display.show(state)
    display._live.refresh()
    display.ended(state, {**TRIAL, "point": point})
    display.close()
    lines = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", screen.getvalue()).splitlines()
    assert max(map(len, lines)) <= 80
    words = {word for line in lines for word in line.replace("│", " ").split()}
    assert {"weight_decay", "warmup_ratio", "schedule", "cosine", "finished"} <= words
