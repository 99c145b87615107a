"""The checker of disturbed sweeps, on hand-made histories; schedules; the table of a record."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from json import dumps, loads

import fault_processes as processes
import pytest
from fault_history import RULES, Attempt, Event, History, Life, Rule, Run, findings
from fault_records import as_history
from fault_schedules import AT_MOST, FEWEST, KINDS, MOST, draw, single
from fault_sweep import ROOT
from fault_table import BEGIN, END, read_sweeps, table, updated
from faults import seeds

A, B = "000-a", "001-b"


def log(start: float, offset: float, *steps: int) -> tuple[Event, ...]:
    """Two updates a trial; the last has a check too, in an event of its own."""
    updates = [
        Event(step, start + 4 * step, {"train/loss": 1 / (step + offset)}, last=False)
        for step in steps
        if step < 3
    ]
    check = Event(2, start + 12, {"eval/score": offset}, last=True)
    return (*updates, *([check] if 3 in steps else []))


def finished(point: str, key: str, score: float, began: float, ended: float) -> Attempt:
    return Attempt(point, key, "COMPLETE", False, score, began, ended)


def run(key: str, offset: float) -> Run:
    losses = tuple((step, 1 / (step + offset)) for step in (1, 2))
    return Run(key, "FINISHED", offset, losses)


UNDISTURBED = History(
    attempts=(finished("a", A, 0.5, 10, 30), finished("b", B, 0.25, 30, 50)),
    events={A: log(14, 0.5, 1, 2, 3), B: log(34, 0.25, 1, 2, 3)},
    test_scores={"a": 0.75},
    runs=(run(A, 0.5), run(B, 0.25)),
    studies=1,
    lives=(Life(0, 60, 60),),
    trial_seconds=39,
)

KILLED = replace(
    UNDISTURBED,
    attempts=(
        finished("a", A, 0.5, 10, 30),
        Attempt("b", B, "FAIL", True, None, 30, 101),
        finished("b", B, 0.25, 105, 120),
    ),
    # Killed after the second update, which was done again: the checkpoint was of the first.
    events={A: log(14, 0.5, 1, 2, 3), B: (*log(34, 0.25, 1, 2), *log(104, 0.25, 2, 3, 3))},
    lives=(Life(0, 45, 35), Life(100, 140, 140)),
    trial_seconds=45,
)
"""A driver killed in the second trial, and the same command again."""


def test_an_undisturbed_history_and_a_resumed_one_are_sound() -> None:
    assert findings(UNDISTURBED, UNDISTURBED) == []
    assert findings(KILLED, UNDISTURBED) == []


def attempts(*changed: Attempt) -> Callable[[], History]:
    return lambda: replace(KILLED, attempts=changed)


def events(key: str, *changed: Event) -> Callable[[], History]:
    return lambda: replace(KILLED, events={**KILLED.events, key: changed})


def runs(*changed: Run) -> Callable[[], History]:
    return lambda: replace(KILLED, runs=changed)


FIRST, CUT, LAST = KILLED.attempts
BROKEN: dict[str, tuple[Rule, Callable[[], History]]] = {
    "a point lost": ("finished once", attempts(FIRST, CUT)),
    "a point finished twice": ("finished once", attempts(FIRST, FIRST, CUT, LAST)),
    "a point run twice, in a folder of its own": (
        "finished once",
        attempts(FIRST, replace(FIRST, key="002-a"), CUT, LAST),
    ),
    "a point that nobody asked for": (
        "finished once",
        attempts(FIRST, CUT, LAST, replace(FIRST, point="c")),
    ),
    "a trial failed": ("finished once", attempts(FIRST, replace(CUT, interrupted=False), LAST)),
    "a folder of no trial": ("finished once", events("002-c", *log(1, 0.5, 1))),
    "another score": ("scores equal", attempts(FIRST, CUT, replace(LAST, score=0.250000001))),
    "another test score": ("scores equal", lambda: replace(KILLED, test_scores={"a": 0.7})),
    "a test score lost": ("scores equal", lambda: replace(KILLED, test_scores={})),
    "an update lost": ("logs whole", events(B, *log(34, 0.25, 2, 3))),
    "an update repeated with another value": (
        "logs whole",
        events(B, *log(34, 0.25, 1), *log(104, 0.3, 1), *log(108, 0.25, 2, 3)),
    ),
    "trained again after the end": (
        "logs whole",
        events(B, *log(34, 0.25, 1, 2, 3), *log(104, 0.25, 1, 2, 3)),
    ),
    "a trial that runs": ("nothing open", attempts(FIRST, LAST, replace(CUT, state="RUNNING"))),
    "a trial that waits": ("nothing open", attempts(FIRST, LAST, replace(CUT, state="WAITING"))),
    "a process left": ("nothing open", lambda: replace(KILLED, left=("raylet (7)",))),
    "a run lost": ("tracked once", runs(run(A, 0.5))),
    "a run doubled": ("tracked once", runs(run(A, 0.5), run(B, 0.25), run(B, 0.25))),
    "a run of no trial": ("tracked once", runs(run(A, 0.5), run(B, 0.25), run("002-c", 0.25))),
    "a run that runs": (
        "tracked once",
        runs(run(A, 0.5), replace(run(B, 0.25), status="RUNNING")),
    ),
    "a run with another score": (
        "tracked once",
        runs(run(A, 0.5), replace(run(B, 0.25), score=0.3)),
    ),
    "an update doubled": (
        "tracked once",
        runs(run(A, 0.5), replace(run(B, 0.25), losses=run(B, 0.25).losses * 2)),
    ),
    "an update not tracked": (
        "tracked once",
        runs(run(A, 0.5), replace(run(B, 0.25), losses=run(B, 0.25).losses[:1])),
    ),
    "two runs of the study": ("tracked once", lambda: replace(KILLED, studies=2)),
    "usage counted twice": ("usage once", lambda: replace(KILLED, trial_seconds=90)),
    "usage lost": (
        "usage once",
        lambda: replace(KILLED, lives=UNDISTURBED.lives, trial_seconds=0),
    ),
}


def test_every_rule_has_a_broken_history() -> None:
    assert {rule for rule, _ in BROKEN.values()} == RULES.keys()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_history_is_found(name: str) -> None:
    rule, broken = BROKEN[name]
    assert rule in {each.rule for each in findings(broken(), UNDISTURBED)}


def test_a_history_survives_json() -> None:
    assert as_history(loads(dumps(asdict(KILLED)))) == KILLED


def test_a_schedule_follows_from_its_seed() -> None:
    assert draw(3, 100) == draw(3, 100)
    assert draw(3, 100) != draw(4, 100)
    assert single("worker", 3, 100) == single("worker", 3, 100)


def test_25_schedules_have_over_100_faults_of_every_kind() -> None:
    schedules = [draw(seed, 100) for seed in range(25)]
    kinds = [fault.kind for schedule in schedules for fault in schedule.faults]
    assert len(kinds) >= 100
    assert set(kinds) == set(KINDS)
    for schedule in schedules:
        own = [fault.kind for fault in schedule.faults]
        assert FEWEST <= len(own) <= MOST
        assert all(own.count(kind) <= most for kind, most in AT_MOST.items())
        assert schedule.nodes == 2 or "raylet" not in own
        assert all(0 <= fault.events <= 100 and 0 <= fault.which < 1 for fault in schedule.faults)


def test_the_table_counts_the_latest_sweep_of_each_seed() -> None:
    done = [{"kind": "worker"}, {"kind": "worker"}, {"kind": "disk"}]
    bad = [{"rule": "usage once", "said": ""}]
    lines = [
        {"seed": 0, "done": done[:1], "findings": bad},
        {"seed": 1, "done": done, "findings": bad},
        {"seed": 0, "done": done, "findings": []},
    ]
    rows = [row.split(" | ") for row in table(lines).splitlines()]
    assert ["| kill -9 of a train worker", "4", "2 |"] in rows
    assert ["| **all**", "**6**", "**2** |"] in rows
    assert [RULES["usage once"], "1 of 2", "1 |"] in [[row[0][2:], *row[1:]] for row in rows]


def test_a_document_gets_the_table_between_its_marks() -> None:
    document = f"before\n{BEGIN}old\n{END}after\n"
    assert updated(document, []) == f"before\n{BEGIN}{table([])}{END}after\n"


def test_the_documents_show_the_newest_record() -> None:
    newest = max(ROOT.glob("benchmarks/records/*/sweeps.jsonl")).parent
    for document in (ROOT / "docs" / "reliability.md", newest / "README.md"):
        text = document.read_text()
        assert updated(text, read_sweeps(newest)) == text


def test_seeds_are_ranges() -> None:
    assert seeds("0-3,7") == [0, 1, 2, 3, 7]


def test_processes_are_found_by_their_mark_and_their_parent(tmp_path: object) -> None:
    mark, command = str(tmp_path), [sys.executable, "-c", "input()"]
    given = {processes.MARK: mark}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=given) as child:
        try:
            found = processes.wait_until_gone(mark, 0.0)
            assert found == [child.pid] and processes.is_alive(child.pid)
            assert child.pid in processes.descendants(1) or processes.title(child.pid)
        finally:
            processes.kill([child.pid])
    assert processes.marked(mark) == [] and not processes.is_alive(child.pid)
