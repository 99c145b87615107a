"""The interface through which a study is tracked.

A study has one writer: only the driver calls a tracker. Trials append to an outbox
(`sweeps.tracking.event_log`), and the driver forwards it. All calls are idempotent, even from a
new tracker object after a restart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

TrialState = Literal["finished", "stopped_early", "stopped_by_user", "failed", "interrupted"]
TrialKind = Literal["trial", "replicate"]
"""What a study's children are: points of a search, or replicates of a fixed design."""

Parameter = float | int | str
Metrics = Mapping[str, float]
"""Values by name, such as "eval/score"."""

DESCRIPTION = "description"
"""The fact that a tracker shows first, as text."""

SINGLE = ("cost/", "data/", "validation/")
"""The beginnings of the metrics that a trial has once; they are facts and not curves."""


class TrackingError(ValueError):
    """The tracker cannot be used, or calls are out of order; the message says how to fix it."""


@final
class TrackingRefused(TrackingError):
    """The tracker rejects this call, and a retry would not help: the run was deleted, perhaps."""


@final
@dataclass(frozen=True)
class StudyInfo:
    """One study: `key` identifies it across restarts, the rest describes it to a reader.

    `trial_kind`: what the tracker calls its trials. `arms`: the parameters that distinguish the
    arms of a fixed design; empty for a search. `searched`: the search's parameters other than mask
    ratio, accumulation interval and learning rate.
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
    searched: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class TrialInfo:
    """One trial: `key` identifies it within the study, `number` is its position.

    `parent_key`: the trial whose model it was derived from without training, or the trial that it
    continues as a fork, from `parent_step`; else empty. `name`: its point in a few words.
    `run_yaml`: the file that runs it alone, and `note` how.
    """

    key: str
    number: int
    parameters: Mapping[str, Parameter]
    seed: int
    parent_key: str = ""
    parent_step: int | None = None
    name: str = ""
    run_yaml: str = ""
    note: str = ""

    def title(self) -> str:
        """Its number and name."""
        return f"{self.number}: {self.name}" if self.name else f"trial {self.number}"


class Tracker(ABC):
    """Records a study: `begin_study`, then trials, then `end_study`."""

    @abstractmethod
    def check(self) -> None:
        """Raise `TrackingError` within a few seconds if the store cannot be written."""

    @abstractmethod
    def sibling(self) -> Tracker:
        """A tracker of the same store, for another study at the same time."""

    @abstractmethod
    def begin_study(self, info: StudyInfo) -> str:
        """Create or reopen the study by its key; returns the id of its record."""

    @abstractmethod
    def begin_trial(self, trial: TrialInfo) -> None:
        """Create or reopen the trial by its key.

        An interrupted or failed trial becomes running again; a completed one stays as it is.
        Raises `TrackingError` if the key was used with other parameters.
        """

    @abstractmethod
    def log(self, key: str, step: int, metrics: Metrics, time: float | None = None) -> None:
        """Buffer the metrics of one step; `time` in Unix seconds (default: now).

        The first value of a (key, step, metric) counts; repeated ones are ignored.
        """

    @abstractmethod
    def end_trial(self, key: str, state: TrialState, finals: Metrics, failure: str = "") -> None:
        """Flush; then set the final metrics (full names such as "final/score") and the state.

        If called again, for example after resuming a trial, the new values replace the old ones.
        """

    @abstractmethod
    def describe(self, key: str, facts: Mapping[str, str]) -> None:
        """Set single values by name, of a trial or, if ``key`` is empty, of the study.

        `DESCRIPTION` is Markdown for a reader. New values replace earlier ones.
        """

    @abstractmethod
    def end_study(self, state: TrialState, artifacts: Sequence[Path], finals: Metrics) -> None:
        """Flush; then store the artifact files and set the study's final metrics and state."""

    @abstractmethod
    def flush(self) -> None:
        """Write the buffer. After a `TrackingError` the data is still buffered: call again."""

    @abstractmethod
    def links(self) -> dict[str, str]:
        """The pages that show the study: label to address.

        The page of a store without a server is the part of its address after that of a server.
        """


def parameter_texts(trial: TrialInfo) -> dict[str, str]:
    """The trial's parameters and seed as text, as trackers store and compare them."""
    texts = {name: _text(value) for name, value in trial.parameters.items()}
    return texts | {"seed": str(trial.seed)}


def require_same_parameters(trial: TrialInfo, stored: Mapping[str, str]) -> None:
    """Raise `TrackingRefused` if this key was stored with other parameters."""
    for name, value in parameter_texts(trial).items():
        if name in stored and stored[name] != value:
            raise TrackingRefused(
                f"trial {trial.key!r}: parameter {name} is {value} now but was stored as "
                f"{stored[name]}; another point requires another key."
            )


def _text(value: Parameter) -> str:
    return value if isinstance(value, str) else repr(value)
