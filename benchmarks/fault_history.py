"""Whether what a sweep has on record is sound: a pure function of its event logs, its Optuna
database and its MLflow runs, compared with those of a sweep that nobody disturbed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, final

Rule = Literal[
    "finished once", "scores equal", "logs whole", "nothing open", "tracked once", "usage once"
]
RULES: Final[Mapping[Rule, str]] = {
    "finished once": "each point has one finished trial, and no trial failed",
    "scores equal": "validation and test scores equal the undisturbed sweep's, bit for bit",
    "logs whole": "an event log has each update, with the undisturbed sweep's values, bit for "
    "bit, and none after the trial's end",
    "nothing open": "no trial waits or runs, no process is left",
    "tracked once": "MLflow has one finished run per trial, with each update's loss once",
    "usage once": "the GPU time counted is that of the attempts, except for the last seconds of a "
    "killed driver",
}

LOSS = "train/loss"
SLACK_SECONDS = 2.0
"""Between the moments at which Optuna and the usage tracker hear of the same attempt."""


@final
@dataclass(frozen=True)
class Attempt:
    """One of Optuna's trials. Times in Unix seconds; ``ended`` is None while it is open.

    ``interrupted``: also of an attempt that failed and was tried again.
    """

    point: str
    key: str
    state: str
    interrupted: bool
    score: float | None
    began: float
    ended: float | None


@final
@dataclass(frozen=True)
class Event:
    """One line of an event log: the values at ``step``, without measured times and memory.

    ``last``: of the trial. It is written once the trial's result is.
    """

    step: int
    time: float
    values: Mapping[str, float]
    last: bool


@final
@dataclass(frozen=True)
class Run:
    """A trial's run in MLflow. ``losses``: every (step, value) of the training loss."""

    key: str
    status: str
    score: float | None
    losses: tuple[tuple[int, float], ...]


@final
@dataclass(frozen=True)
class Life:
    """A driver process. ``recorded``: up to when its usage is certainly on disk."""

    began: float
    ended: float
    recorded: float


@final
@dataclass(frozen=True)
class History:
    """What is on record after a sweep. ``events``: by trial key. ``test_scores``: by point.

    ``studies``: how many runs MLflow has for the study itself. ``trial_seconds``: the usage
    counted, as seconds of one trial. ``left``: processes that should have ended.
    """

    attempts: tuple[Attempt, ...]
    events: Mapping[str, tuple[Event, ...]]
    test_scores: Mapping[str, float]
    runs: tuple[Run, ...]
    studies: int
    lives: tuple[Life, ...]
    trial_seconds: float
    left: tuple[str, ...] = ()

    def finished(self) -> dict[str, list[Attempt]]:
        """The complete attempts by point."""
        found: dict[str, list[Attempt]] = {}
        for attempt in self.attempts:
            if attempt.state == "COMPLETE":
                found.setdefault(attempt.point, []).append(attempt)
        return found


@final
@dataclass(frozen=True)
class Finding:
    """A rule that the history breaks, and how."""

    rule: Rule
    said: str


def findings(history: History, undisturbed: History) -> list[Finding]:
    """Every way in which a history is not sound; empty for a sound one."""
    checks: Mapping[Rule, Iterator[str]] = {
        "finished once": _finished_once(history, undisturbed),
        "scores equal": _scores_equal(history, undisturbed),
        "logs whole": _logs_whole(history, undisturbed),
        "nothing open": _nothing_open(history),
        "tracked once": _tracked_once(history),
        "usage once": _usage_once(history),
    }
    return [Finding(rule, said) for rule, found in checks.items() for said in found]


def _finished_once(history: History, undisturbed: History) -> Iterator[str]:
    found, wanted = history.finished(), undisturbed.finished()
    for point in wanted.keys() | found.keys():
        times = len(found.get(point, ()))
        if times != 1:
            yield f"{point} finished {times} times"
        if point not in wanted:
            yield f"{point} is no point of the design"
    for attempt in history.attempts:
        if attempt.state in ("FAIL", "PRUNED") and not attempt.interrupted:
            yield f"{attempt.point} ended as {attempt.state}"
    for key in history.events.keys() - {attempt.key for attempt in history.attempts}:
        yield f"{key} is the folder of no trial"


def _scores_equal(history: History, undisturbed: History) -> Iterator[str]:
    right = {point: first.score for point, (first, *_) in undisturbed.finished().items()}
    for point, attempts in history.finished().items():
        for attempt in attempts:
            if attempt.score != right.get(point):
                yield f"{point} has the score {attempt.score}, not {right.get(point)}"
    if history.test_scores != undisturbed.test_scores:
        yield f"test scores {history.test_scores}, not {undisturbed.test_scores}"


def _logs_whole(history: History, undisturbed: History) -> Iterator[str]:
    right = {
        first.point: _values(undisturbed.events[first.key])
        for first, *_ in undisturbed.finished().values()
    }
    for point, [attempt, *_] in history.finished().items():
        events = history.events.get(attempt.key, ())
        wanted, found = right.get(point, {}), _values(events)
        if missing := wanted.keys() - found.keys():
            yield f"{point}: no record of {sorted(missing)[:5]}"
        for place, values in found.items():
            if values != wanted.get(place):
                yield f"{point}: {place} is {sorted(values)}, not {sorted(wanted.get(place, ()))}"
        if after := _after_the_end(events):
            yield f"{point}: trained again after its end, at update {after[0].step}"


def _values(events: tuple[Event, ...]) -> dict[tuple[int, str], set[float]]:
    """The values of each metric at each step: an update that was repeated has the same again."""
    found: dict[tuple[int, str], set[float]] = {}
    for event in events:
        for name, value in event.values.items():
            found.setdefault((event.step, name), set()).add(value)
    return found


def _after_the_end(events: tuple[Event, ...]) -> list[Event]:
    """The updates after a trial's last event, which itself may be repeated."""
    ends = [number for number, event in enumerate(events) if event.last]
    return [event for event in events[min(ends, default=len(events)) :] if not event.last]


def _nothing_open(history: History) -> Iterator[str]:
    for attempt in history.attempts:
        if attempt.state in ("RUNNING", "WAITING"):
            yield f"{attempt.point} is {attempt.state}"
    for process in history.left:
        yield f"left behind: {process}"


def _tracked_once(history: History) -> Iterator[str]:
    if history.studies != 1:
        yield f"{history.studies} runs of the study"
    trials = {first.key: first for first, *_ in history.finished().values()}
    for key, count in (Counter(trials.keys()) - Counter(run.key for run in history.runs)).items():
        yield f"{key}: {count} run missing"
    for key, count in (Counter(run.key for run in history.runs) - Counter(trials.keys())).items():
        yield f"{key}: {count} run too many"
    for run in history.runs:
        yield from _run(run, history, trials.get(run.key))


def _run(run: Run, history: History, trial: Attempt | None) -> Iterator[str]:
    if run.status != "FINISHED":
        yield f"{run.key}: its run is {run.status}"
    if trial is not None and run.score != trial.score:
        yield f"{run.key}: its run has the score {run.score}, not {trial.score}"
    counts = Counter(step for step, _ in run.losses)
    if doubled := [step for step, count in counts.items() if count > 1]:
        yield f"{run.key}: updates {doubled[:5]} are doubled"
    events = [event for event in history.events.get(run.key, ()) if LOSS in event.values]
    logged = {(event.step, event.values[LOSS]) for event in events}
    if logged != set(run.losses):
        yield f"{run.key}: {len(logged ^ set(run.losses))} losses differ from the event log"


def _usage_once(history: History) -> Iterator[str]:
    slack = SLACK_SECONDS * len(history.attempts)
    least, most = _least_usage(history) - slack, _most_usage(history) + slack
    if not least <= history.trial_seconds <= most:
        yield f"{history.trial_seconds:.1f} s counted, expected {least:.1f} to {most:.1f} s"


def _most_usage(history: History) -> float:
    """The seconds that Optuna had an attempt open, within the driver that began it."""
    return sum(
        min(attempt.ended or life.ended, life.ended) - attempt.began
        for life in history.lives
        for attempt in history.attempts
        if life.began <= attempt.began < life.ended
    )


def _least_usage(history: History) -> float:
    """The seconds between the first and the last event of each trial under each driver."""
    total = 0.0
    for life in history.lives:
        for events in history.events.values():
            times = [e.time for e in events if life.began <= e.time <= life.recorded]
            total += max(times, default=0.0) - min(times, default=0.0)
    return total
