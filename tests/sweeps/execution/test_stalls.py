"""A worker that stays at one line is noticed, with the line of our code."""

from __future__ import annotations

import threading
import time

from sweeps.execution.stalls import noting_stalls


def test_a_thread_that_waits_is_noted_with_its_place() -> None:
    noted, event = list[str](), threading.Event()

    def note(place: str) -> None:
        noted.append(place)
        event.set()

    with noting_stalls(note, seconds=0.01):
        assert event.wait(10)
        end = time.monotonic() + 10
        while "" not in noted and time.monotonic() < end:
            time.sleep(0.015)
            threading.Event().wait(0.015)
    assert noted[1] == ""  # it moves again
    assert noted[0].startswith("threading:")  # the tests are none of the packages


def test_the_place_is_the_innermost_line_of_the_packages() -> None:
    from sweeps.finetune.process_group import Group

    noted, event = list[str](), threading.Event()

    def note(place: str) -> None:
        noted.append(place)
        event.set()

    with noting_stalls(note, seconds=0.01):
        Group().agree(lambda: event.wait(10), bool, "a wait")
    assert noted[0].startswith("sweeps.finetune.process_group:")
    assert noted[0].endswith("(agree)")
