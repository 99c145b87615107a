"""The tracker pump: a thread of the driver that is the only writer to a study's tracker."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

from sweeps.storage.study_paths import alone
from sweeps.storage.trial_files import EVENTS_FILE, RUN_FILE, SENT_FILE
from sweeps.tracking.event_log import OutboxReader, forward
from sweeps.tracking.tracker import (
    SINGLE,
    Metrics,
    StudyInfo,
    Tracker,
    TrackingError,
    TrackingRefused,
    TrialInfo,
    TrialState,
)

Fetch = Callable[[Path], None]
Publish = Callable[[Mapping[str, str]], None]

BEAT_SECONDS = 1.0
"""How often new events are sent, and how soon a failed call is retried."""


@final
class TrackerPump:
    """A thread that forwards the events of open trials to the tracker each second.

    If the tracker does not respond, nothing is delayed or lost: events stay in the outboxes and
    calls in the queue. A call that the tracker rejects, such as a point for a deleted run, is
    skipped with a message.
    """

    def __init__(
        self,
        tracker: Tracker,
        say: Callable[[str], None],
        fetch: Fetch = lambda outbox: None,
        publish: Publish = lambda links: None,
    ) -> None:
        """``fetch``: downloads new lines of an outbox in an object store; may raise OSError.
        ``publish``: told the study's links as soon as the tracker has the study."""
        self._tracker, self._say = tracker, say
        self._fetch, self._publish = fetch, publish
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._readers: dict[str, OutboxReader] = {}
        self._waiting: Callable[[], None] | None = None
        self._complained = False
        self._deadline = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)
        self._thread.start()

    def begin_study(self, info: StudyInfo) -> None:
        """The study starts or resumes."""
        self._calls.put(lambda: self._begin_study(info))

    def _begin_study(self, info: StudyInfo) -> None:
        try:
            self._tracker.begin_study(info)
        except TrackingRefused as error:  # everything else depends on it, so retry until it works
            raise TrackingError(str(error)) from error
        self._publish(self._tracker.links())

    def begin(self, info: TrialInfo, folder: Path) -> None:
        """A trial starts or resumes."""
        run = folder / RUN_FILE
        if run.is_file():
            note = f"To run it alone: `{alone(folder)}`"
            info = replace(info, run_yaml=run.read_text(encoding="utf-8"), note=note)

        def call() -> None:
            self._tracker.begin_trial(info)
            self._readers[info.key] = OutboxReader(folder / EVENTS_FILE)

        self._calls.put(call)

    def end(self, key: str, folder: Path, ended: dict[str, Any]) -> None:
        """A trial ended, with this outcome (see `sweeps.search.outcomes.outcome`)."""
        state: TrialState = ended["state"]
        finals, facts, failure = final_metrics(ended), single_values(ended), ended["failure"]

        def call() -> None:
            if key not in self._readers:  # the tracker rejected its start
                return
            self._forward(key)
            self._tracker.describe(key, facts)
            self._tracker.end_trial(key, state, finals, failure)
            del self._readers[key]
            folder.mkdir(parents=True, exist_ok=True)  # missing if its workers never started
            (folder / SENT_FILE).touch()

        self._calls.put(call)

    def interrupt(self, key: str) -> None:
        """The driver stops while this trial runs; a later call of `run` continues it."""

        def call() -> None:
            if key in self._readers:
                self._forward(key)
                self._tracker.end_trial(key, "interrupted", {})
                del self._readers[key]

        self._calls.put(call)

    def describe_study(self, facts: Mapping[str, str]) -> None:
        """What was found; see `Tracker.describe`."""
        self._calls.put(lambda: self._tracker.describe("", facts))

    def finish_study(self, state: TrialState, artifacts: Sequence[Path], finals: Metrics) -> None:
        """The study ended, or its driver stops."""
        self._calls.put(lambda: self._tracker.end_study(state, artifacts, finals))

    def close(self, timeout: float) -> bool:
        """Send what is left; False if the tracker did not take everything in ``timeout`` s."""
        self._deadline = time.monotonic() + timeout
        self._stopping.set()
        self._thread.join(timeout)
        return not self._thread.is_alive() and self._waiting is None and self._calls.empty()

    def _forward(self, key: str) -> None:
        self._fetch(self._readers[key].path)
        forward(self._readers[key], self._tracker, key)

    def _run(self) -> None:
        while not self._stopping.wait(BEAT_SECONDS):
            self._pump()
        while not self._pump() and time.monotonic() < self._deadline:
            time.sleep(BEAT_SECONDS / 2)

    def _pump(self) -> bool:
        """Send what can be sent now; True if nothing is left."""
        try:
            while self._waiting is not None or not self._calls.empty():
                self._waiting = self._waiting or self._calls.get()
                self._waiting()
                self._waiting = None
            for key in self._readers:
                self._forward(key)
        except TrackingRefused as error:
            self._waiting = None
            self._say(f"tracking: {error} The study continues without it.")
            return False
        except (TrackingError, OSError) as error:  # no response, or a full disk under the outbox
            if not self._complained:
                self._say(
                    f"tracking: {error} The study continues; its events are kept and re-sent."
                )
            self._complained = True
            return False
        self._complained = False
        return True


def final_metrics(ended: dict[str, Any]) -> dict[str, float]:
    """The trial's last scores, under ``final/``. Those of a trial that did not finish are under
    ``stopped/``, because they do not rank among the others."""
    place = "final" if ended["state"] == "finished" else "stopped"
    finals = {} if ended["score"] is None else {f"{place}/score": float(ended["score"])}
    for name, value in ended["metrics"].items():
        kind, _, rest = name.partition("/")
        if kind in ("eval", "objective"):
            finals[f"{place}/{rest}"] = value
    return finals


def single_values(ended: dict[str, Any]) -> dict[str, str]:
    """The trial's costs, and the counts of its data, as text."""
    found = {"cost/wall_seconds": ended["seconds"], **ended["metrics"]}
    return {name: f"{value:.6g}" for name, value in found.items() if name.startswith(SINGLE)}
