"""Read what a sweep has on record, as a `History`: event logs, Optuna's database, MLflow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fault_history import LOSS, Attempt, Event, History, Life, Run
from fault_stand_in import WORKERS
from fault_sweep import DOMAIN

from sweeps.search.attempt_records import INTERRUPTED, KEY, point_of, retried
from sweeps.storage.address import sqlite_address
from sweeps.storage.trial_files import EVENTS_FILE, step_events

EXACT = (LOSS, "train/grad", "eval/", "gmt/")
"""The beginnings of the metrics that follow from the seed alone."""

LAST = "cost/train_seconds"
"""A metric of a trial's last event only."""


def read_history(
    folder: Path, tracking: str, lives: Iterable[Life], left: tuple[str, ...]
) -> History:
    """Everything on record of the sweep in this folder, and in the MLflow server."""
    study = f"{folder.name}/{DOMAIN}"
    attempts = _attempts(folder / "optuna.db", study)
    runs, studies = _runs(tracking, study)
    logs = (folder / DOMAIN / "trials").iterdir()
    return History(
        attempts=attempts,
        events={log.name: tuple(_events(log / EVENTS_FILE)) for log in logs},
        test_scores=_test_scores(folder / DOMAIN / "test_scores.json", attempts),
        runs=runs,
        studies=studies,
        lives=tuple(lives),
        trial_seconds=_gpu_hours(folder) * 3600 / WORKERS,
        left=left,
    )


def as_history(tree: Mapping[str, Any]) -> History:
    """A history from what `dataclasses.asdict` and JSON made of it."""
    return History(
        attempts=tuple(Attempt(**each) for each in tree["attempts"]),
        events={
            key: tuple(Event(**each) for each in events) for key, events in tree["events"].items()
        },
        test_scores=tree["test_scores"],
        runs=tuple(
            Run(**{**each, "losses": tuple(map(tuple, each["losses"]))}) for each in tree["runs"]
        ),
        studies=tree["studies"],
        lives=tuple(Life(**each) for each in tree["lives"]),
        trial_seconds=tree["trial_seconds"],
        left=tuple(tree["left"]),
    )


def _attempts(database: Path, name: str) -> tuple[Attempt, ...]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(sqlite_address(database))
    study = optuna.load_study(study_name=name, storage=storage)
    continued = retried(study)
    found = tuple(
        Attempt(
            point=json.dumps(point_of(trial), sort_keys=True),
            key=trial.user_attrs.get(KEY, ""),
            state=trial.state.name,
            interrupted=INTERRUPTED in trial.user_attrs or trial.number in continued,
            score=trial.values[0] if trial.values else None,
            began=trial.datetime_start.timestamp() if trial.datetime_start else 0.0,
            ended=trial.datetime_complete.timestamp() if trial.datetime_complete else None,
        )
        for trial in study.trials
    )
    storage.remove_session()
    storage.engine.dispose()
    return found


def _events(file: Path) -> Iterable[Event]:
    for event in step_events(file):
        metrics = event["metrics"]
        values = {name: value for name, value in metrics.items() if name.startswith(EXACT)}
        yield Event(event["step"], event["time"], values, LAST in metrics)


def _test_scores(file: Path, attempts: Iterable[Attempt]) -> dict[str, float]:
    """Every test score by point and benchmark."""
    points = {attempt.key: attempt.point for attempt in attempts}
    tested = json.loads(file.read_text()) if file.exists() else {"keys": {}}
    return {
        f"{points[key]} {name}": value
        for role, key in tested["keys"].items()
        for name, value in tested["entries"][role].items()
    }


def _gpu_hours(folder: Path) -> float:
    return sum(float(file.read_text()) for file in (folder / "spent").glob("*.gpu_hours"))


def _runs(tracking: str, study: str) -> tuple[tuple[Run, ...], int]:
    """The runs of trials, and the number of runs of studies."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking)
    experiments = [each.experiment_id for each in client.search_experiments()]
    found, studies = [], 0
    for run in client.search_runs(experiments, f"tags.`gmt.study` = '{study}'"):
        key = run.data.tags.get("gmt.trial_key")
        if key is None:
            studies += run.data.tags.get("gmt.kind") == "study"
            continue
        losses = client.get_metric_history(run.info.run_id, LOSS)
        points = tuple((point.step, point.value) for point in losses)
        found.append(Run(key, run.info.status, run.data.metrics.get("final/score"), points))
    return tuple(found), studies
