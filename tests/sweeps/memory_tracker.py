"""The in-memory fake of a tracker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

from sweeps.tracking.tracker import (
    Metrics,
    StudyInfo,
    Tracker,
    TrackingError,
    TrialInfo,
    TrialState,
    parameter_texts,
    require_same_parameters,
)


@dataclass
class TrialRecord:
    """A trial in the in-memory store: `points[metric][step]` is the value."""

    info: TrialInfo
    state: TrialState | Literal["running"] = "running"
    failure: str = ""
    points: dict[str, dict[int, float]] = field(default_factory=dict)
    finals: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


@dataclass
class StudyRecord:
    """A study in the in-memory store."""

    info: StudyInfo
    state: TrialState | Literal["running"] = "running"
    trials: dict[str, TrialRecord] = field(default_factory=dict)
    finals: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    artifacts: list[Path] = field(default_factory=list)


@final
class MemoryTracker(Tracker):
    """The in-memory fake: `store` maps study keys to records and may outlive the tracker."""

    def __init__(self, store: dict[str, StudyRecord] | None = None) -> None:
        self.store: dict[str, StudyRecord] = {} if store is None else store
        self._study: StudyRecord | None = None

    def check(self) -> None:
        """Memory is always available."""

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
        if record.state not in ("finished", "stopped_early", "stopped_by_user"):
            record.state, record.failure = "running", ""

    def log(self, key: str, step: int, metrics: Metrics, time: float | None = None) -> None:
        """Keep the first value of each (step, metric)."""
        points = self._trial(key).points
        for name, value in metrics.items():
            points.setdefault(name, {}).setdefault(step, value)

    def end_trial(self, key: str, state: TrialState, finals: Metrics, failure: str = "") -> None:
        """Set state, failure and finals."""
        record = self._trial(key)
        record.state, record.failure = state, failure
        record.finals.update(finals)

    def describe(self, key: str, facts: Mapping[str, str]) -> None:
        """Keep the facts."""
        (self._trial(key) if key else self._current()).facts.update(facts)

    def end_study(self, state: TrialState, artifacts: Sequence[Path], finals: Metrics) -> None:
        """Set the study's state, artifacts and finals."""
        study = self._current()
        study.state, study.artifacts = state, list(artifacts)
        study.finals.update(finals)

    def flush(self) -> None:
        """Nothing is buffered; calls out of order still raise."""
        self._current()

    def links(self) -> dict[str, str]:
        """There are no pages."""
        return {}

    def _current(self) -> StudyRecord:
        if self._study is None:
            raise TrackingError("begin_study must be called before any other tracker call.")
        return self._study

    def _trial(self, key: str) -> TrialRecord:
        trials = self._current().trials
        if key not in trials:
            raise TrackingError(f"trial {key!r} was not started: call begin_trial first.")
        return trials[key]
