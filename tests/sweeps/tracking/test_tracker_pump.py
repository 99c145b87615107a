"""The one writer to the tracker: an outage loses nothing, doubles nothing, delays nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sweeps.storage.trial_files import EVENTS_FILE, RUN_FILE, SENT_FILE
from sweeps.tracking import tracker_pump as pump_module
from sweeps.tracking.event_log import Outbox
from sweeps.tracking.tracker import StudyInfo, Tracker, TrackingError, TrackingRefused, TrialInfo
from sweeps.tracking.tracker_pump import TrackerPump, final_metrics, single_values
from tests.sweeps.memory_tracker import MemoryTracker

STUDY = StudyInfo("small/sums", "small", "sums", "", "abc", "", {})
ENDED: dict[str, Any] = {
    "state": "finished",
    "score": 0.5,
    "seconds": 3.0,
    "failure": "",
    "metrics": {"cost/train_seconds": 2.0, "eval/sums/accuracy": 0.5, "data/examples": 4.0},
}
POINTS = {"train/loss": {step: 1 / (step + 1) for step in range(20)}}


class FailingTracker(Tracker):
    """Passes each call on to a `MemoryTracker`, unless it is down; counts what arrived."""

    def __init__(self, inner: MemoryTracker) -> None:
        self.inner, self.down, self.refused = inner, False, 0
        self.never: str | None = None  # the first call of this name is refused for good
        self.calls: list[str] = []

    def _through(self, name: str, call: Callable[[], Any]) -> Any:
        if self.down:
            self.refused += 1
            raise TrackingError("the server does not answer.")
        if name == self.never:
            self.never = None
            raise TrackingRefused("the run is deleted.")
        self.calls.append(name)
        return call()

    def check(self) -> None:
        self._through("check", self.inner.check)

    def sibling(self) -> Tracker:
        return self

    def begin_study(self, info: StudyInfo) -> str:
        return str(self._through("begin_study", lambda: self.inner.begin_study(info)))

    def begin_trial(self, trial: TrialInfo) -> None:
        self._through(f"begin {trial.key}", lambda: self.inner.begin_trial(trial))

    def log(
        self, key: str, step: int, metrics: Mapping[str, float], time: float | None = None
    ) -> None:
        self._through(f"log {key} {step}", lambda: self.inner.log(key, step, metrics, time))

    def end_trial(self, key: str, state: Any, finals: Mapping[str, float], why: str = "") -> None:
        self._through(f"end {key}", lambda: self.inner.end_trial(key, state, finals, why))

    def describe(self, key: str, facts: Mapping[str, str]) -> None:
        self._through(f"describe {key}", lambda: self.inner.describe(key, facts))

    def end_study(self, state: Any, artifacts: Any, finals: Mapping[str, float]) -> None:
        self._through("end_study", lambda: self.inner.end_study(state, artifacts, finals))

    def flush(self) -> None:
        self._through("flush", self.inner.flush)

    def links(self) -> dict[str, str]:
        return {"compare trials": "http://host/page"}


@pytest.fixture
def tracker() -> FailingTracker:
    inner = MemoryTracker()
    inner.begin_study(STUDY)
    return FailingTracker(inner)


@pytest.fixture(autouse=True)
def fast_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "BEAT_SECONDS", 0.02)


def info(number: int) -> TrialInfo:
    return TrialInfo(f"k{number}", number, {"mask_ratio": 0.2}, 0)


def write_steps(folder: Path, steps: range) -> None:
    with Outbox(folder / EVENTS_FILE) as outbox:
        for step in steps:
            outbox.append("step", step=step, metrics={"train/loss": 1 / (step + 1)})


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, "it did not come true in 10 s"
        time.sleep(0.005)


def test_a_trial_arrives_whole_while_it_runs(tracker: FailingTracker, tmp_path: Path) -> None:
    said: list[str] = []
    pump = TrackerPump(tracker, said.append)
    folder = tmp_path / "k0"
    pump.begin(info(0), folder)
    write_steps(folder, range(10))
    until(lambda: "log k0 9" in tracker.calls)  # before the trial ends
    write_steps(folder, range(10, 20))
    pump.end("k0", folder, ENDED)
    pump.describe_study({"best": "k0"})
    pump.finish_study("finished", [], {"final/score": 0.5})
    assert pump.close(timeout=10)
    study = tracker.inner.store[STUDY.key]
    trial = study.trials["k0"]
    assert trial.points == POINTS
    assert (trial.state, trial.finals) == ("finished", final_metrics(ENDED))
    assert (trial.facts, study.facts) == (single_values(ENDED), {"best": "k0"})
    assert (study.state, study.finals) == ("finished", {"final/score": 0.5})
    assert (folder / SENT_FILE).exists()
    assert len(tracker.calls) == len(set(tracker.calls) - {"flush"}) + tracker.calls.count("flush")
    assert said == []


def test_the_links_are_told_once_the_tracker_has_the_study(tracker: FailingTracker) -> None:
    told: list[Mapping[str, str]] = []
    tracker.down = True
    pump = TrackerPump(tracker, lambda text: None, publish=told.append)
    pump.begin_study(STUDY)
    until(lambda: tracker.refused > 1)
    assert told == []
    tracker.down = False
    assert pump.close(timeout=10)
    assert told == [tracker.links()]


def test_an_outage_loses_and_doubles_nothing(tracker: FailingTracker, tmp_path: Path) -> None:
    said: list[str] = []
    pump = TrackerPump(tracker, said.append)
    folders = [tmp_path / f"k{number}" for number in range(2)]
    pump.begin(info(0), folders[0])
    write_steps(folders[0], range(5))
    until(lambda: "log k0 4" in tracker.calls)
    tracker.down = True
    write_steps(folders[0], range(5, 20))
    pump.end("k0", folders[0], ENDED)
    pump.begin(info(1), folders[1])
    write_steps(folders[1], range(20))
    until(lambda: tracker.refused >= 3)
    assert not (folders[0] / SENT_FILE).exists()
    tracker.down = False
    pump.end("k1", folders[1], ENDED)
    assert pump.close(timeout=10)
    trials = tracker.inner.store[STUDY.key].trials
    assert {key: trial.points for key, trial in trials.items()} == {"k0": POINTS, "k1": POINTS}
    assert {trial.state for trial in trials.values()} == {"finished"}
    once = [call for call in tracker.calls if call != "flush"]
    assert len(once) == len(set(once))  # each begin, point and end arrived once
    assert all((folder / SENT_FILE).exists() for folder in folders)
    assert len(said) == 1  # one line for the whole outage
    assert "does not answer" in said[0]


@pytest.mark.parametrize("name", ["begin k0", "log k0 3", "flush", "end k0"])
def test_what_is_refused_for_good_holds_up_nobody(
    tracker: FailingTracker, tmp_path: Path, name: str
) -> None:
    said: list[str] = []
    pump = TrackerPump(tracker, said.append)
    folders = [tmp_path / f"k{number}" for number in range(2)]
    tracker.never = name
    for number, folder in enumerate(folders):
        write_steps(folder, range(20))
        pump.begin(info(number), folder)
        pump.end(f"k{number}", folder, ENDED)
    assert pump.close(timeout=10)
    assert tracker.inner.store[STUDY.key].trials["k1"].points == POINTS
    assert (folders[1] / SENT_FILE).exists()
    assert said == ["tracking: the run is deleted. The study continues without it."]


def test_the_next_session_sends_what_this_one_could_not(
    tracker: FailingTracker, tmp_path: Path
) -> None:
    folder = tmp_path / "k0"
    first = TrackerPump(tracker, lambda text: None)
    first.begin(info(0), folder)
    write_steps(folder, range(20))
    until(lambda: "log k0 19" in tracker.calls)
    tracker.down = True
    first.end("k0", folder, ENDED)
    assert not first.close(timeout=0.2)
    assert not (folder / SENT_FILE).exists()
    tracker.down = False
    second = TrackerPump(tracker, lambda text: None)
    second.begin(info(0), folder)
    second.end("k0", folder, ENDED)
    assert second.close(timeout=10)
    trial = tracker.inner.store[STUDY.key].trials["k0"]
    assert (trial.state, trial.points) == ("finished", POINTS)


def test_an_interruption_during_an_outage_is_still_told(
    tracker: FailingTracker, tmp_path: Path
) -> None:
    pump = TrackerPump(tracker, lambda text: None)
    pump.begin(info(0), tmp_path / "k0")
    until(lambda: "begin k0" in tracker.calls)
    tracker.down = True
    write_steps(tmp_path / "k0", range(20))
    pump.interrupt("k0")
    pump.interrupt("never-begun")
    until(lambda: tracker.refused >= 3)
    tracker.down = False
    assert pump.close(timeout=10)
    trial = tracker.inner.store[STUDY.key].trials["k0"]
    assert (trial.state, trial.points) == ("interrupted", POINTS)


def test_a_trial_whose_workers_never_started_is_ended_too(
    tracker: FailingTracker, tmp_path: Path
) -> None:
    pump = TrackerPump(tracker, lambda text: None)
    folder = tmp_path / "trials" / "k0"
    pump.begin(info(0), folder)
    failed = {**ENDED, "state": "failed", "score": None, "failure": "lost", "metrics": {}}
    pump.end("k0", folder, failed)
    assert pump.close(timeout=10)
    trial = tracker.inner.store[STUDY.key].trials["k0"]
    assert (trial.state, trial.failure) == ("failed", "lost")
    assert (trial.finals, trial.facts) == ({}, {"cost/wall_seconds": "3"})
    assert (folder / SENT_FILE).exists()


def test_final_metrics_have_their_names() -> None:
    assert final_metrics(ENDED) == {"final/score": 0.5, "final/sums/accuracy": 0.5}
    assert single_values(ENDED) == {
        "cost/wall_seconds": "3",
        "cost/train_seconds": "2",
        "data/examples": "4",
    }


@pytest.mark.parametrize("state", ["stopped_early", "failed"])
def test_the_scores_of_a_trial_that_did_not_finish_do_not_rank(state: str) -> None:
    assert final_metrics({**ENDED, "state": state}) == {
        "stopped/score": 0.5,
        "stopped/sums/accuracy": 0.5,
    }


def test_a_trial_has_the_file_that_runs_it_alone(tracker: FailingTracker, tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_text("seed: 0\n")
    pump = TrackerPump(tracker, lambda text: None)
    pump.begin(info(0), tmp_path)
    assert pump.close(timeout=10)
    told = tracker.inner.store[STUDY.key].trials["k0"].info
    assert told.run_yaml == "seed: 0\n"
    assert told.note == f"To run it alone: `python -m sweeps finetune {tmp_path / RUN_FILE}`"
