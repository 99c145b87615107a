"""A multi-study searcher: the trials of several studies in one Tuner share the worker groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher

from sweeps.execution.optuna_searcher import FINISHED, StudySearch
from sweeps.execution.study_observer import StudyObserver


@final
@dataclass(frozen=True)
class TrialBatch:
    """The request of one study: to run ``trials`` trials of its search."""

    search: StudySearch
    observer: StudyObserver
    trials: int


@final
class BatchSearcher(Searcher):
    """Tune's searcher over several studies.

    The next trial comes from the study with the fewest running trials; in a tie, from the one that
    has started the fewest. It ends when no study has trials left: one that listens to requests may
    get more while any of its trials runs.
    """

    def __init__(self, batches: Sequence[TrialBatch]) -> None:
        super().__init__(metric="score", mode="max")
        self._left = {batch: batch.trials for batch in batches}
        self._of: dict[str, TrialBatch] = {}
        self._running: Counter[StudySearch] = Counter()
        self._begun: Counter[StudySearch] = Counter()

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles its searcher for a snapshot that is never restored."""
        return {}

    def observer(self, trial_id: str) -> StudyObserver:
        """The observer of this trial's study."""
        return self._of[trial_id].observer

    def is_unpromising(self, trial_id: str, result: dict[str, Any]) -> bool:
        """The verdict of its study's pruner."""
        batch = self._of.get(trial_id)
        return batch is not None and batch.search.is_unpromising(trial_id, result)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial, from the study whose turn it is; None if one may be requested yet."""
        for batch in self._left:
            if added := batch.search.accepted():
                self._left[batch] += added
                batch.observer.added(added)
        for batch in sorted(self._left, key=self._served):
            job = batch.search.suggest(trial_id) if self._left[batch] > 0 else FINISHED
            if not isinstance(job, str):
                self._of[trial_id] = batch
                self._running[batch.search] += 1
                self._begun[batch.search] += 1
                self._left[batch] -= 1
                return job
            self._left[batch] = 0
        is_open = any(b.search.is_listening() and self._running[b.search] for b in self._left)
        return None if is_open else FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Forward to the searcher of its study, which then has one running trial fewer."""
        if (batch := self._of.get(trial_id)) is not None:
            self._running[batch.search] -= 1
            batch.search.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the state is in the Optuna storage."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore, as in ``save``."""

    def _served(self, batch: TrialBatch) -> tuple[int, int]:
        return self._running[batch.search], self._begun[batch.search]


@final
class Observers(Callback):
    """Tune's callback; forwards each trial's events to the observer of its study."""

    def __init__(self, searcher: BatchSearcher) -> None:
        self._searcher = searcher

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles its callbacks for a snapshot that is never restored."""
        return {}

    def on_trial_start(self, trial: TuneTrial, **info: Any) -> None:
        """A trial starts."""
        self._observer(trial).began(trial)

    def on_trial_result(self, trial: TuneTrial, result: dict[str, Any], **info: Any) -> None:
        """A trial has a validation result."""
        self._observer(trial).checked(trial, result)

    def on_trial_complete(self, trial: TuneTrial, **info: Any) -> None:
        """A trial finished, was stopped early, or failed by itself."""
        self._observer(trial).ended(trial, dict(trial.last_result or {}), error=False)

    def on_trial_error(self, trial: TuneTrial, **info: Any) -> None:
        """A trial lost its group."""
        result = {**(trial.last_result or {}), "failure": str(trial.get_error() or "lost")}
        self._observer(trial).ended(trial, result, error=True)

    def _observer(self, trial: TuneTrial) -> StudyObserver:
        return self._searcher.observer(trial.trial_id)
