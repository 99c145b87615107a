"""Write a study to MLflow: an experiment per domain, a parent run per study, a child per trial.

MLflow does not accept run ids, and stores both values if a step is logged twice. Runs are
therefore found by their tags, and the stored steps of a reopened run are read before it gets new
points.
"""

from __future__ import annotations

import os
import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, final

from sweeps.storage.address import for_mlflow, sqlite_path
from sweeps.tracking.mlflow_compat import COMMIT, NOTE, PARENT, QUIET, SOURCE
from sweeps.tracking.mlflow_store import (
    check_store,
    finite,
    named,
    params,
    public_address,
    reported,
)
from sweeps.tracking.tracker import (
    DESCRIPTION,
    Metrics,
    StudyInfo,
    Tracker,
    TrackingError,
    TrackingRefused,
    TrialInfo,
    TrialState,
    require_same_parameters,
)

if TYPE_CHECKING:  # MLflow takes seconds to import, so import it only when tracking
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

BATCH_POINTS, BATCH_TAGS = 1000, 100  # MLflow's limits for one request
FAILURE_CHARACTERS = 5000
STATUS: dict[TrialState, str] = {
    "finished": "FINISHED",
    "stopped_early": "FINISHED",
    "stopped_by_user": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}


@final
@dataclass
class _OpenRun:
    """A trial's run.

    `reopened`: it may hold points that are not in `seen` (metric -> steps). `refused`: MLflow no
    longer accepts points for it.
    """

    run_id: str
    reopened: bool
    seen: dict[str, set[int]] = field(default_factory=dict)
    buffer: list[Metric] = field(default_factory=list)
    refused: bool = False


@final
@dataclass(frozen=True)
class _OpenStudy:
    info: StudyInfo
    experiment_id: str
    run_id: str
    views: list[tuple[str, str]]
    found: Mapping[str, Run]  # trials of earlier calls, by key


@final
class MlflowTracker(Tracker):
    """Tracks to "sqlite:///FILE" or "http(s)://HOST:PORT".

    Artifacts of an SQLite store are in a folder beside the file; a server decides where its own
    are.
    """

    def __init__(self, uri: str) -> None:
        for name, value in QUIET.items():  # before the first import of mlflow, which reads them
            os.environ.setdefault(name, value)
        self._uri = uri
        self._study: _OpenStudy | None = None
        self._runs: dict[str, _OpenRun] = {}

    def check(self) -> None:
        """Raise `TrackingError` within about 5 seconds if the store cannot be used."""
        check_store(self._uri)

    def sibling(self) -> MlflowTracker:
        """Another client of the same store."""
        return MlflowTracker(self._uri)

    def begin_study(self, info: StudyInfo) -> str:
        """Create or reopen the parent run and publish the compare view; returns the run id.

        A reopened study keeps its parameters; config.yaml is replaced by the current one.
        """
        from sweeps.tracking.compare_view import publish_study

        self.check()
        with reported("begin the study"):
            experiment_id = self._experiment(f"gmt/{info.domain}")
            run_id = self._parent(experiment_id, info)
            self._client.log_text(run_id, info.config_yaml, "config.yaml")
            views = publish_study(self._client, experiment_id, run_id, info)
            found = self._children(experiment_id, run_id)
        self._study = _OpenStudy(info, experiment_id, run_id, views, found)
        self._runs = {}
        return run_id

    def begin_trial(self, trial: TrialInfo) -> None:
        """Create or reopen the child run."""
        study = self._current()
        with reported(f"begin trial {trial.key!r}"):
            if trial.key in self._runs:
                run = self._client.get_run(self._runs[trial.key].run_id)
            else:
                run = study.found.get(trial.key) or self._create_child(study, trial)
                reopened = trial.key in study.found
                self._runs[trial.key] = _OpenRun(run.info.run_id, reopened)
            require_same_parameters(trial, run.data.params)
            self._resume(run, trial)
            # Also for an existing run: a crash may have occurred before this line.
            self._client.log_batch(run.info.run_id, params=params(trial))
            if trial.run_yaml:
                self._client.log_text(run.info.run_id, trial.run_yaml, "run.yaml")

    def log(self, key: str, step: int, metrics: Metrics, time: float | None = None) -> None:
        """Buffer the points that the run does not have yet."""
        from mlflow.entities import Metric

        run = self._run(key)
        if run.refused:
            return
        stamp = int((clock.time() if time is None else time) * 1000)
        for name, value in named(metrics).items():
            steps = run.seen[name] if name in run.seen else self._load_steps(run, name)
            if step not in steps:
                steps.add(step)
                run.buffer.append(Metric(name, finite(value), stamp, step))

    def flush(self) -> None:
        """Send the buffers. Repeating a request after an outage is idempotent.

        MLflow drops a point that equals a stored one in step, value and time.

        Raises:
            TrackingRefused: after all other points were sent; the rejected ones are dropped.
        """
        self._current()
        refusal: TrackingRefused | None = None
        for key, run in self._runs.items():
            try:
                with reported(f"log trial {key!r}"):
                    self._log(run.run_id, run.buffer)
            except TrackingRefused as error:
                run.buffer.clear()
                run.refused, refusal = True, error
        if refusal is not None:
            raise refusal

    def _log(self, run_id: str, points: list[Metric]) -> None:
        """Send the points, and remove those from the list that were sent."""
        while points:
            self._client.log_batch(run_id, metrics=points[:BATCH_POINTS])
            del points[:BATCH_POINTS]

    def end_trial(self, key: str, state: TrialState, finals: Metrics, failure: str = "") -> None:
        """Flush; then write finals, state and status of the child run."""
        run = self._run(key)
        self.flush()
        with reported(f"end trial {key!r}"):
            self._finish(run.run_id, state, finals, failure)
        run.seen.clear()  # do not keep the steps of every trial in memory
        run.reopened = True

    def describe(self, key: str, facts: Mapping[str, str]) -> None:
        """Set tags, and the run's description."""
        from mlflow.entities import RunTag

        run_id = self._run(key).run_id if key else self._current().run_id
        names = {DESCRIPTION: NOTE}
        tags = [RunTag(names.get(k, k), value) for k, value in named(facts).items()]
        with reported(f"describe {key or 'the study'!r}"):
            for start in range(0, len(tags), BATCH_TAGS):
                self._client.log_batch(run_id, tags=tags[start : start + BATCH_TAGS])

    def end_study(self, state: TrialState, artifacts: Sequence[Path], finals: Metrics) -> None:
        """Flush; then write artifacts, finals, state and status of the parent run."""
        study = self._current()
        self.flush()
        with reported("end the study"):
            for path in artifacts:
                self._client.log_artifact(study.run_id, str(path))
            self._finish(study.run_id, state, finals, "")

    def links(self) -> dict[str, str]:
        """The compare views."""
        server = "" if sqlite_path(self._uri) else public_address(self._uri)
        return {label: server + page for label, page in self._current().views}

    @cached_property
    def _client(self) -> MlflowClient:
        from mlflow import MlflowClient

        return MlflowClient(for_mlflow(self._uri))

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            path = sqlite_path(self._uri)
            # Without a location MLflow would create ./mlruns in the working directory.
            place = None if path is None else (path.parent / f"{path.stem}-artifacts").as_uri()
            return str(self._client.create_experiment(name, artifact_location=place))
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"MLflow experiment {name!r} was deleted; restore it with "
                f"`mlflow experiments restore --experiment-id {found.experiment_id}`."
            )
        return str(found.experiment_id)

    def _parent(self, experiment_id: str, info: StudyInfo) -> str:
        """The id of the study's run, which is created if it does not exist."""
        from mlflow.entities import Param

        query = f"tags.`gmt.kind` = 'study' and tags.`gmt.study` = '{info.key}'"
        tags = _tags(info, "study", {NOTE: info.note})
        if found := self._client.search_runs([experiment_id], query, max_results=1):
            run_id = str(found[0].info.run_id)
            for name, value in tags.items():
                self._client.set_tag(run_id, name, value)
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        run = self._client.create_run(experiment_id, run_name=info.name, tags=tags)
        params = [Param(name, value) for name, value in info.parameters.items()]
        self._client.log_batch(run.info.run_id, params=params)
        return str(run.info.run_id)

    def _children(self, experiment_id: str, parent_id: str) -> dict[str, Run]:
        query, token = f"tags.`{PARENT}` = '{parent_id}'", None
        found: dict[str, Run] = {}
        while True:
            page = self._client.search_runs([experiment_id], query, page_token=token)
            found |= {run.data.tags["gmt.trial_key"]: run for run in page}
            token = page.token
            if not token:
                return found

    def _create_child(self, study: _OpenStudy, trial: TrialInfo) -> Run:
        own = {"gmt.trial_key": trial.key, PARENT: study.run_id, NOTE: _note(trial)}
        derived = {"gmt.parent_key": trial.parent_key} if trial.parent_key else {}
        if trial.parent_step is not None:
            derived["gmt.parent_step"] = str(trial.parent_step)
        tags = _tags(study.info, study.info.trial_kind, own | derived)
        return self._client.create_run(study.experiment_id, run_name=trial.title(), tags=tags)

    def _resume(self, run: Run, trial: TrialInfo) -> None:
        if run.data.tags.get("gmt.state") in ("failed", "interrupted"):
            for tag, text in (("gmt.state", "running"), ("gmt.failure", ""), (NOTE, _note(trial))):
                self._client.set_tag(run.info.run_id, tag, text)
            self._client.update_run(run.info.run_id, status="RUNNING", name=trial.title())

    def _load_steps(self, run: _OpenRun, name: str) -> set[int]:
        stored: set[int] = set()
        if run.reopened:
            with reported(f"read {name}"):
                history = self._client.get_metric_history(run.run_id, name)
            stored = {point.step for point in history}
        run.seen[name] = stored
        return stored

    def _finish(self, run_id: str, state: TrialState, finals: Metrics, failure: str) -> None:
        from mlflow.entities import Metric

        stored = self._client.get_run(run_id).data.metrics
        stamp = int(clock.time() * 1000)
        # MLflow draws bars for step 0; if a resumed trial ends again, the latest time counts.
        new = [
            Metric(name, finite(value), stamp, 0)
            for name, value in named(finals).items()
            if stored.get(name) != value
        ]
        self._log(run_id, new)
        self._client.set_tag(run_id, "gmt.state", state)
        if failure:
            self._client.set_tag(run_id, "gmt.failure", failure[-FAILURE_CHARACTERS:])
        self._client.set_terminated(run_id, STATUS[state])

    def _current(self) -> _OpenStudy:
        if self._study is None:
            raise TrackingError("begin_study must be called before any other tracker call.")
        return self._study

    def _run(self, key: str) -> _OpenRun:
        self._current()
        if key not in self._runs:
            raise TrackingError(f"trial {key!r} was not started: call begin_trial first.")
        return self._runs[key]


def _note(trial: TrialInfo) -> str:
    return f"Trial {trial.title()}\n\n{trial.note}"


def _tags(info: StudyInfo, kind: str, own: Mapping[str, str]) -> dict[str, str]:
    """The tags of a new or reopened run: of a study, or of one of its trials."""
    shared = {"gmt.study": info.key, SOURCE: "gmt-sweep", COMMIT: info.git_commit}
    return {"gmt.kind": kind, "gmt.state": "running", **shared, **own}
