"""What a study tells the outside world, and the in-memory twin of the tracker that tells it.

A study has one writer: only the study's driver process calls a tracker; trials append to an outbox
(`sweeps.tracking.event_log`) and the driver forwards it. Every call may be repeated, also by a new
tracker object after a restart, without doubling a run or a point.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

SERVE = "serve MLflow"
"""The label of the one link that all studies of a store share."""

TrialState = Literal["finished", "stopped_early", "failed", "interrupted"]
TrialKind = Literal["trial", "replicate"]
"""What the children of a study are: points of a search, or replicates of a fixed design."""

Parameter = float | int | str


class TrackingError(ValueError):
    """The tracker cannot be used, or was used out of order; the message says what to change."""


@final
class TrackingRefused(TrackingError):
    """The tracker will not take this, however often it is sent: a run was deleted, perhaps."""


@final
@dataclass(frozen=True)
class StudyInfo:
    """One study: `key` is its identity across restarts, the rest describes it to a reader.

    `trial_kind`: what its trials are called in the tracker. `arms`: the parameters that tell the
    arms of a fixed design apart; none in a search.
    """

    key: str
    name: str
    domain: str
    config_yaml: str
    git_commit: str
    note: str
    parameters: Mapping[str, str]
    trial_kind: TrialKind = "trial"
    arms: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class TrialInfo:
    """One trial: `key` is its identity within the study, `number` its place in the order.

    `parent_key`: whose checkpoint it was derived from without training; empty for all others.
    """

    key: str
    number: int
    parameters: Mapping[str, Parameter]
    seed: int
    parent_key: str = ""


class Tracker(ABC):
    """Receives a study: `begin_study`, then trials, then `end_study`."""

    @abstractmethod
    def check(self) -> None:
        """Raise `TrackingError` within a few seconds if the store cannot be written."""

    @abstractmethod
    def sibling(self) -> Tracker:
        """A tracker of the same store, for another study at the same time."""

    @abstractmethod
    def begin_study(self, info: StudyInfo) -> str:
        """Create the study, or reopen it by its key; returns the id of its record."""

    @abstractmethod
    def begin_trial(self, trial: TrialInfo) -> None:
        """Create the trial under the study, or reopen it by its key.

        A trial that was interrupted or failed becomes running again; a completed one stays as it
        is. `TrackingError` if the same key comes with other parameters.
        """

    @abstractmethod
    def log(
        self, key: str, step: int, metrics: Mapping[str, float], time: float | None = None
    ) -> None:
        """Buffer the metrics of one step; `time` in Unix seconds (default: now).

        The first value of a (key, step, metric) counts; a repetition changes nothing.
        """

    @abstractmethod
    def end_trial(
        self, key: str, state: TrialState, finals: Mapping[str, float], failure: str = ""
    ) -> None:
        """Flush, set the final metrics (full names such as "final/score") and the state.

        Called again, as after resuming an interrupted trial, the new values replace the old.
        """

    @abstractmethod
    def end_study(
        self, state: TrialState, artifacts: Sequence[Path], finals: Mapping[str, float]
    ) -> None:
        """Flush, store the artifact files, set the study's final metrics and state."""

    @abstractmethod
    def flush(self) -> None:
        """Write what is buffered. After a `TrackingError` it is still buffered: call again."""

    @abstractmethod
    def links(self) -> list[tuple[str, str]]:
        """(label, text) pairs that tell a person where to look."""


@dataclass
class TrialRecord:
    """A trial as the in-memory store holds it: `points[metric][step]` is the value."""

    info: TrialInfo
    state: TrialState | Literal["running"] = "running"
    failure: str = ""
    points: dict[str, dict[int, float]] = field(default_factory=dict)
    finals: dict[str, float] = field(default_factory=dict)


@dataclass
class StudyRecord:
    """A study as the in-memory store holds it."""

    info: StudyInfo
    state: TrialState | Literal["running"] = "running"
    trials: dict[str, TrialRecord] = field(default_factory=dict)
    finals: dict[str, float] = field(default_factory=dict)
    artifacts: list[Path] = field(default_factory=list)


@final
class MemoryTracker(Tracker):
    """The in-process twin: `store` maps study keys to records and may outlive the tracker."""

    def __init__(self, store: dict[str, StudyRecord] | None = None) -> None:
        self.store: dict[str, StudyRecord] = {} if store is None else store
        self._study: StudyRecord | None = None

    def check(self) -> None:
        """Memory is always there."""

    def sibling(self) -> MemoryTracker:
        """Another view of the same memory."""
        return MemoryTracker(self.store)

    def begin_study(self, info: StudyInfo) -> str:
        """Create or reopen the study; its id is its key."""
        self._study = self.store.setdefault(info.key, StudyRecord(info))
        self._study.state = "running"
        return info.key

    def begin_trial(self, trial: TrialInfo) -> None:
        """Create or reopen the trial."""
        record = self._current().trials.setdefault(trial.key, TrialRecord(trial))
        require_same_parameters(trial, parameter_texts(record.info))
        if record.state not in ("finished", "stopped_early"):
            record.state, record.failure = "running", ""

    def log(
        self, key: str, step: int, metrics: Mapping[str, float], time: float | None = None
    ) -> None:
        """Keep the first value of each (step, metric)."""
        points = self._trial(key).points
        for name, value in metrics.items():
            points.setdefault(name, {}).setdefault(step, value)

    def end_trial(
        self, key: str, state: TrialState, finals: Mapping[str, float], failure: str = ""
    ) -> None:
        """Set state, failure and finals."""
        record = self._trial(key)
        record.state, record.failure = state, failure
        record.finals.update(finals)

    def end_study(
        self, state: TrialState, artifacts: Sequence[Path], finals: Mapping[str, float]
    ) -> None:
        """Set the study's state, artifacts and finals."""
        study = self._current()
        study.state, study.artifacts = state, list(artifacts)
        study.finals.update(finals)

    def flush(self) -> None:
        """Nothing is buffered in memory; out-of-order use is still an error."""
        self._current()

    def links(self) -> list[tuple[str, str]]:
        """Nowhere to look."""
        return []

    def _current(self) -> StudyRecord:
        if self._study is None:
            raise TrackingError("begin_study must be called before any other tracker call.")
        return self._study

    def _trial(self, key: str) -> TrialRecord:
        trials = self._current().trials
        if key not in trials:
            raise TrackingError(f"trial {key!r} was not begun: call begin_trial first.")
        return trials[key]


def parameter_texts(trial: TrialInfo) -> dict[str, str]:
    """The trial's parameters and seed as text, as trackers store and compare them."""
    texts = {name: _text(value) for name, value in trial.parameters.items()}
    return texts | {"seed": str(trial.seed)}


def require_same_parameters(trial: TrialInfo, stored: Mapping[str, str]) -> None:
    """Raise `TrackingRefused` if the stored parameters of this key are not the trial's."""
    for name, value in parameter_texts(trial).items():
        if name in stored and stored[name] != value:
            raise TrackingRefused(
                f"trial {trial.key!r}: parameter {name} is {value} now but was stored as "
                f"{stored[name]}; a different point needs a different key."
            )


def run_name(trial: TrialInfo) -> str:
    """At most 18 characters, such as "007 m0.20 a16 s0": what the run list can show."""
    parts = [f"{trial.number:03d}"]
    if "mask_ratio" in trial.parameters:
        parts.append(f"m{float(trial.parameters['mask_ratio']):.2f}")
    if "accumulation_interval" in trial.parameters:
        parts.append(f"a{trial.parameters['accumulation_interval']}")
    return " ".join([*parts, f"s{trial.seed}"])[:18]


def _text(value: Parameter) -> str:
    return value if isinstance(value, str) else repr(value)
