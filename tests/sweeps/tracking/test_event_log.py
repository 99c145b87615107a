"""The outbox: whole events only, each forwarded once, whatever crashes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sweeps.tracking.event_log import Outbox, OutboxReader, forward
from sweeps.tracking.tracker import StudyInfo, TrackingError, TrialInfo
from tests.sweeps.memory_tracker import MemoryTracker

STUDY = StudyInfo("s", "s", "math", "", "", "", {})
TRIAL = TrialInfo("t", 0, {}, 0)


def write_steps(path: Path, steps: range) -> None:
    with Outbox(path) as outbox:
        for step in steps:
            outbox.append("step", step=step, metrics={"train/loss": float(step)})


def steps(events: list[dict[str, Any]]) -> list[int]:
    return [event["step"] for event in events]


def test_events_come_back_with_kind_time_and_fields(tmp_path: Path) -> None:
    before = time.time()
    with Outbox(tmp_path / "folder" / "o.jsonl") as outbox:
        outbox.append("check", score=0.5)
        [event] = OutboxReader(tmp_path / "folder" / "o.jsonl").read()
    assert before <= event.pop("time") <= time.time()
    assert event == {"kind": "check", "score": 0.5}


def test_no_file_yet_means_no_events(tmp_path: Path) -> None:
    assert OutboxReader(tmp_path / "o.jsonl").read() == []


def test_every_prefix_of_the_file_gives_only_whole_events(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    write_steps(path, range(3))
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    torn = tmp_path / "torn.jsonl"
    for length in range(len(whole) + 1):
        torn.write_bytes(whole[:length])
        assert steps(OutboxReader(torn).read()) == list(range(sum(e <= length for e in ends)))


def test_a_half_written_line_is_read_once_complete(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    write_steps(path, range(2))
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    reader = OutboxReader(path)
    assert steps(reader.read()) == [0]
    reader.commit()
    path.write_bytes(whole)
    assert steps(reader.read()) == [1]


def test_a_new_writer_drops_the_torn_tail(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    write_steps(path, range(2))
    with path.open("ab") as file:
        file.write(b'{"kind": "step", "step": 2' + b" " * 10_000)
    write_steps(path, range(2, 4))
    assert steps(OutboxReader(path).read()) == [0, 1, 2, 3]


def test_a_file_with_only_a_torn_line_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    path.write_bytes(b'{"kind')
    write_steps(path, range(1))
    assert steps(OutboxReader(path).read()) == [0]


def test_a_killed_writer_loses_nothing_it_appended(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    code = (
        "import os, pathlib, sys\n"
        "from sweeps.tracking.event_log import Outbox\n"
        "outbox = Outbox(pathlib.Path(sys.argv[1]))\n"
        "for step in range(50): outbox.append('step', step=step, metrics={})\n"
        "os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, cwd=root)
    assert done.returncode == -9
    assert steps(OutboxReader(path).read()) == list(range(50))


def test_a_reader_goes_on_where_it_committed(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    write_steps(path, range(2))
    reader = OutboxReader(path)
    assert steps(reader.read()) == [0, 1] == steps(reader.read())
    reader.commit()
    write_steps(path, range(2, 3))
    assert steps(reader.read()) == [2]


def test_an_outbox_started_anew_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    write_steps(path, range(5))
    reader = OutboxReader(path)
    reader.read()
    reader.commit()
    path.unlink()
    write_steps(path, range(1))
    assert steps(reader.read()) == [0]


def test_a_damaged_line_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "o.jsonl"
    write_steps(path, range(1))
    with path.open("ab") as file:
        file.write(b"\0\0\0\n")
    write_steps(path, range(1, 2))
    assert steps(OutboxReader(path).read()) == [0, 1]
    assert "skipped an unreadable line" in caplog.text


def test_a_closed_outbox_stays_closed(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.jsonl")
    outbox.close()
    outbox.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        outbox.append("step")


def test_appending_costs_far_less_than_a_training_step(tmp_path: Path) -> None:
    started = time.perf_counter()
    write_steps(tmp_path / "o.jsonl", range(1000))
    assert time.perf_counter() - started < 1.0


def begun() -> MemoryTracker:
    tracker = MemoryTracker()
    tracker.begin_study(STUDY)
    tracker.begin_trial(TRIAL)
    return tracker


def points(tracker: MemoryTracker) -> Mapping[int, float]:
    return tracker.store["s"].trials["t"].points.get("train/loss", {})


def test_forward_sends_steps_and_returns_all_events(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    write_steps(path, range(2))
    with Outbox(path) as outbox:
        outbox.append("check", score=1.0)
    tracker, reader = begun(), OutboxReader(path)
    assert [event["kind"] for event in forward(reader, tracker, "t")] == ["step", "step", "check"]
    assert points(tracker) == {0: 0.0, 1: 1.0}
    assert forward(reader, tracker, "t") == []


def test_an_outage_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "o.jsonl"
    write_steps(path, range(2))
    tracker, reader = begun(), OutboxReader(path)

    def no_answer() -> None:
        raise TrackingError("no answer")

    with monkeypatch.context() as outage:
        outage.setattr(tracker, "flush", no_answer)
        with pytest.raises(TrackingError, match="no answer"):
            forward(reader, tracker, "t")
    assert steps(forward(reader, tracker, "t")) == [0, 1]
    assert points(tracker) == {0: 0.0, 1: 1.0}


def test_a_new_reader_sends_all_again_and_doubles_nothing(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    write_steps(path, range(2))
    tracker = begun()
    forward(OutboxReader(path), tracker, "t")
    write_steps(path, range(2, 3))
    assert steps(forward(OutboxReader(path), tracker, "t")) == [0, 1, 2]
    assert points(tracker) == {0: 0.0, 1: 1.0, 2: 2.0}


def test_what_a_trial_has_once_is_no_curve(tmp_path: Path) -> None:
    tracker = MemoryTracker()
    tracker.begin_study(STUDY)
    tracker.begin_trial(TRIAL)
    with Outbox(tmp_path / "o.jsonl") as outbox:
        metrics = {"eval/score": 0.5, "cost/train_seconds": 2.0, "data/examples": 8.0}
        outbox.append("step", step=4, metrics=metrics)
    forward(OutboxReader(tmp_path / "o.jsonl"), tracker, "t")
    assert tracker.store["s"].trials["t"].points == {"eval/score": {4: 0.5}}
