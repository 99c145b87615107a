"""Between Tune and the people who watch: the display, and the tracker through the outboxes."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial

from sweeps.outbox import OutboxReader, forward
from sweeps.progress import Display, Tally
from sweeps.search import ending, outcome
from sweeps.tracking import Tracker, TrackingError, TrialInfo, TrialState
from sweeps.trial import EVENTS_FILE

@final
class TrackerPump:
    """The study's one writer: a thread that forwards the outboxes of open trials each second.

    A tracker that does not answer delays nothing and loses nothing: events stay in the outboxes
    and calls in the queue until it answers again.
    """

    def __init__(self, tracker: Tracker, say: Callable[[str], None]) -> None:
        self._tracker, self._say = tracker, say
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._readers: dict[str, OutboxReader] = {}
        self._waiting: Callable[[], None] | None = None
        self._complained = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)
        self._thread.start()

    def begin(self, info: TrialInfo, folder: Path) -> None:
        """A trial starts, or goes on."""

        def call() -> None:
            self._tracker.begin_trial(info)
            self._readers[info.key] = OutboxReader(folder / EVENTS_FILE)

        self._calls.put(call)

    def end(self, key: str, state: TrialState, finals: dict[str, float], failure: str) -> None:
        """A trial ended."""

        def call() -> None:
            if (reader := self._readers.get(key)) is not None:
                forward(reader, self._tracker, key)
            self._tracker.end_trial(key, state, finals, failure)
            self._readers.pop(key, None)

        self._calls.put(call)

    def close(self, timeout: float) -> bool:
        """Send what is left; False when the tracker did not take it all in ``timeout`` s."""
        self._stopping.set()
        self._thread.join(timeout)
        return not self._thread.is_alive() and self._waiting is None and self._calls.empty()

    def _run(self) -> None:
        while not self._stopping.wait(0.0 if not self._calls.empty() else 1.0):
            self._pump()
        deadline = time.monotonic() + 60
        while not self._pump() and time.monotonic() < deadline:
            time.sleep(1.0)

    def _pump(self) -> bool:
        """Do what can be done now; True when nothing is left waiting."""
        try:
            while self._waiting is not None or not self._calls.empty():
                self._waiting = self._waiting or self._calls.get()
                self._waiting()
                self._waiting = None
            for key, reader in self._readers.items():
                forward(reader, self._tracker, key)
        except TrackingError as error:
            if not self._complained:
                self._say(f"tracking: {error} The study goes on; its events are kept and re-sent.")
            self._complained = True
            return False
        self._complained = False
        return True


@final
class StudyObserver(Callback):  # type: ignore[misc]
    """Tune's callback for one study."""

    def __init__(
        self,
        tally: Tally,
        display: Display,
        pump: TrackerPump,
        seed: int,
        drop_weights: Callable[[], None],
    ) -> None:
        self._tally, self._display, self._pump, self._seed = tally, display, pump, seed
        self._drop_weights = drop_weights

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Open the trial's record."""
        job = trial.config
        self._tally.running[job["key"]] = {"number": job["number"], "point": job["point"]}
        self._pump.begin(trial_info(job, self._seed), Path(job["folder"]))
        self._display.show(self._tally)

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """Show an intermediate score."""
        running = self._tally.running.get(trial.config["key"])
        if running is not None:
            running.update({k: result[k] for k in ("step", "steps", "score") if k in result})
            self._display.show(self._tally)

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Close the record of a trial that finished, was stopped early, or failed by itself."""
        self._end(trial, dict(trial.last_result or {}), error=False)

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Close the record of a trial whose group was lost."""
        result = {**(trial.last_result or {}), "failure": str(trial.get_error() or "lost")}
        self._end(trial, result, error=True)

    def _end(self, trial: TuneTrial, result: dict[str, Any], error: bool) -> None:
        job = trial.config
        state = ending(result, error)
        ended = {**outcome(result, state), "number": job["number"], "point": job["point"]}
        tally = self._tally
        tally.running.pop(job["key"], None)
        tally.endings[state] += 1
        if state == "finished" and (tally.best is None or ended["score"] > tally.best["score"]):
            tally.best = ended
        self._pump.end(job["key"], state, final_metrics(ended), ended["failure"])  # type: ignore[arg-type]
        self._drop_weights()
        self._display.ended(tally, ended)


def trial_info(job: dict[str, Any], seed: int) -> TrialInfo:
    """A group's job as the tracker knows it."""
    return TrialInfo(job["key"], job["number"], job["point"], seed)


def final_metrics(ended: dict[str, Any]) -> dict[str, float]:
    """The trial's last numbers under ``final/`` and ``cost/``."""
    finals = {"cost/wall_seconds": float(ended["seconds"])}
    if ended["score"] is not None:
        finals["final/score"] = float(ended["score"])
    for name, value in ended["metrics"].items():
        if name.startswith("cost/"):
            finals[name] = value
        elif name.startswith("eval/"):
            finals["final/" + name.removeprefix("eval/")] = value
    return finals
