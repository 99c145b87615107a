"""One suite for every tracker: what is written, and that writing it again changes nothing."""

from __future__ import annotations

import json
import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import pytest

from sweeps.tracking.mlflow_tracker import MlflowTracker
from sweeps.tracking.tracker import DESCRIPTION, StudyInfo, Tracker, TrackingError, TrialInfo
from tests.sweeps.memory_tracker import MemoryTracker

# MLflow 3.17's own use of SQLAlchemy 2.1, nothing a caller can change.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")

STUDY = StudyInfo(
    key="study-1",
    name="mini",
    domain="math",
    config_yaml="domain: math\n",
    git_commit="abc123",
    note="**note**",
    parameters={"trials": "12"},
)
POINT = {"mask_ratio": 0.2, "accumulation_interval": 16, "learning_rate": 1e-3, "method": "gmt"}
TRIAL = TrialInfo(
    key="t0",
    number=7,
    parameters=POINT,
    seed=0,
    name="mask 0.20, N 16",
    run_yaml="seed: 0\n",
    note="how to run it",
)


class Store(ABC):
    """A place that outlives trackers, and how to read it back."""

    @abstractmethod
    def open(self) -> Tracker: ...

    @abstractmethod
    def trials(self) -> list[str]: ...

    @abstractmethod
    def points(self, key: str, metric: str) -> list[tuple[int, float]]: ...

    @abstractmethod
    def trial(self, key: str) -> dict[str, Any]:
        """Keys: state, failure, finals, facts."""

    @abstractmethod
    def study(self) -> dict[str, Any]:
        """Keys: count, state, finals, facts, artifacts (names)."""


@final
class MemoryStore(Store):
    def __init__(self) -> None:
        self.records: dict[str, Any] = {}

    def open(self) -> Tracker:
        return MemoryTracker(self.records)

    def trials(self) -> list[str]:
        return list(self.records[STUDY.key].trials)

    def points(self, key: str, metric: str) -> list[tuple[int, float]]:
        return sorted(self.records[STUDY.key].trials[key].points.get(metric, {}).items())

    def trial(self, key: str) -> dict[str, Any]:
        record = self.records[STUDY.key].trials[key]
        return {
            "state": record.state,
            "failure": record.failure,
            "finals": record.finals,
            "facts": record.facts,
        }

    def study(self) -> dict[str, Any]:
        record = self.records[STUDY.key]
        return {
            "count": len(self.records),
            "state": record.state,
            "finals": record.finals,
            "facts": record.facts,
            "artifacts": {path.name for path in record.artifacts},
        }


@final
class MlflowStore(Store):
    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.open()  # silences MLflow before its first import
        from mlflow import MlflowClient

        self.client = MlflowClient(uri)

    def open(self) -> Tracker:
        return MlflowTracker(self.uri)

    def trials(self) -> list[str]:
        return [run.data.tags["gmt.trial_key"] for run in self._runs("trial")]

    def points(self, key: str, metric: str) -> list[tuple[int, float]]:
        history = self.client.get_metric_history(self._trial(key).info.run_id, metric)
        return sorted((point.step, point.value) for point in history)

    def trial(self, key: str) -> dict[str, Any]:
        run = self._trial(key)
        finals = {k: v for k, v in run.data.metrics.items() if k.startswith("final/")}
        tags = run.data.tags
        return {
            "state": tags["gmt.state"],
            "failure": tags.get("gmt.failure", ""),
            "finals": finals,
            "facts": facts_of(run),
        }

    def study(self) -> dict[str, Any]:
        runs = self._runs("study")
        artifacts = {file.path for file in self.client.list_artifacts(runs[0].info.run_id)}
        return {
            "count": len(runs),
            "state": runs[0].data.tags["gmt.state"],
            "finals": runs[0].data.metrics,
            "facts": facts_of(runs[0]),
            "artifacts": artifacts - {"config.yaml"},
        }

    def experiment_id(self) -> str:
        return str(self.client.get_experiment_by_name("gmt/math").experiment_id)

    def _runs(self, kind: str) -> list[Any]:
        return list(self.client.search_runs([self.experiment_id()], f"tags.`gmt.kind` = '{kind}'"))

    def _trial(self, key: str) -> Any:
        runs = [run for run in self._runs("trial") if run.data.tags["gmt.trial_key"] == key]
        assert len(runs) == 1
        return runs[0]


def facts_of(run: Any) -> dict[str, str]:
    """Its tags, without those of MLflow and of the tracker itself."""
    tags = run.data.tags.items()
    return {name: text for name, text in tags if not name.startswith(("mlflow.", "gmt."))}


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Creating MLflow's tables takes seconds: once, then copied."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowStore(f"sqlite:///{path}").client.search_experiments()
    return path


@pytest.fixture(params=["memory", "mlflow"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return MemoryStore()
    return request.getfixturevalue("mlflow_store")


@pytest.fixture
def mlflow_store(tmp_path: Path, empty_database: Path) -> MlflowStore:
    path = tmp_path / "mlflow.db"
    shutil.copy(empty_database, path)
    return MlflowStore(f"sqlite:///{path}")


def write_trial(tracker: Tracker) -> None:
    tracker.begin_study(STUDY)
    tracker.begin_trial(TRIAL)
    for step in range(3):
        tracker.log("t0", step, {"train/loss": 1.0 / (step + 1)}, time=1000.0 + step)
    tracker.flush()


def test_points_state_and_finals_arrive(store: Store, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("<p>report</p>")
    tracker = store.open()
    write_trial(tracker)
    tracker.describe("t0", {"cost/train_seconds": "3"})
    tracker.describe("t0", {"cost/train_seconds": "2", "data/examples": "8"})
    tracker.end_trial("t0", "finished", {"final/score": 0.5})
    tracker.describe("", {"best": "t0"})
    tracker.end_study("finished", [report], {"final/score": 0.5})
    assert store.points("t0", "train/loss") == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert store.trial("t0") == {
        "state": "finished",
        "failure": "",
        "finals": {"final/score": 0.5},
        "facts": {"cost/train_seconds": "2", "data/examples": "8"},
    }
    assert store.study() == {
        "count": 1,
        "state": "finished",
        "finals": {"final/score": 0.5},
        "facts": {"best": "t0"},
        "artifacts": {"report.html"},
    }


def test_a_restart_doubles_nothing(store: Store) -> None:
    first, second = store.open(), store.open()
    write_trial(first)
    write_trial(second)
    write_trial(second)
    second.log("t0", 2, {"train/loss": 9.0, "train/grad_norm": 1.0})
    second.log("t0", 3, {"train/loss": 0.1})
    second.flush()
    assert store.study()["count"] == 1
    assert store.trials() == ["t0"]
    assert store.points("t0", "train/loss") == [(0, 1.0), (1, 0.5), (2, 1 / 3), (3, 0.1)]
    assert store.points("t0", "train/grad_norm") == [(2, 1.0)]


def test_late_points_of_an_ended_trial_are_not_doubled(store: Store) -> None:
    tracker = store.open()
    write_trial(tracker)
    tracker.end_trial("t0", "finished", {})
    tracker.log("t0", 2, {"train/loss": 9.0})
    tracker.flush()
    assert len(store.points("t0", "train/loss")) == 3


def test_an_interrupted_trial_is_reopened_and_its_finals_replaced(store: Store) -> None:
    tracker = store.open()
    write_trial(tracker)
    tracker.end_trial("t0", "interrupted", {"final/score": 0.1}, "node lost")
    assert store.trial("t0")["state"] == "interrupted"
    assert store.trial("t0")["failure"] == "node lost"
    again = store.open()
    write_trial(again)
    assert store.trial("t0")["state"] == "running"
    again.end_trial("t0", "finished", {"final/score": 0.7})
    assert store.trial("t0") == {
        "state": "finished",
        "failure": "",
        "finals": {"final/score": 0.7},
        "facts": {},
    }


def test_mlflow_renames_a_resumed_run_of_an_earlier_version(mlflow_store: MlflowStore) -> None:
    """It had another name and no description, and measured its costs as curves."""
    tracker = mlflow_store.open()
    tracker.begin_study(STUDY)
    tracker.begin_trial(replace(TRIAL, name="", note=""))
    tracker.log("t0", 3, {"cost/train_seconds": 2.0})
    tracker.end_trial("t0", "interrupted", {"final/score": 0.1})
    again = mlflow_store.open()
    write_trial(again)
    again.describe("t0", {"cost/train_seconds": "4"})
    again.end_trial("t0", "finished", {"final/score": 0.5})
    run = mlflow_store._trial("t0")
    assert run.info.run_name == "7: mask 0.20, N 16"
    assert run.data.tags["mlflow.note.content"].endswith("how to run it")
    assert run.data.tags["cost/train_seconds"] == "4"
    assert mlflow_store.points("t0", "cost/train_seconds") == [(3, 2.0)]
    assert run.data.metrics["final/score"] == 0.5


@pytest.mark.parametrize("state", ["finished", "stopped_early"])
def test_a_completed_trial_stays_completed(store: Store, state: Any) -> None:
    tracker = store.open()
    write_trial(tracker)
    tracker.end_trial("t0", state, {})
    write_trial(store.open())
    assert store.trial("t0")["state"] == state


def test_trials_of_one_study_do_not_mix(store: Store) -> None:
    tracker = store.open()
    write_trial(tracker)
    tracker.begin_trial(replace(TRIAL, key="t1", number=1))
    tracker.log("t1", 0, {"train/loss": 7.0})
    tracker.flush()
    assert sorted(store.trials()) == ["t0", "t1"]
    assert store.points("t1", "train/loss") == [(0, 7.0)]
    assert len(store.points("t0", "train/loss")) == 3


def test_two_studies_at_once_do_not_mix(store: Store) -> None:
    tracker = store.open()
    other = tracker.sibling()
    tracker.begin_study(STUDY)
    other.begin_study(replace(STUDY, key="study-2", domain="code"))
    write_trial(tracker)
    other.begin_trial(replace(TRIAL, key="t1", number=1))
    other.log("t1", 0, {"train/loss": 7.0})
    other.flush()
    assert (store.trials(), len(store.points("t0", "train/loss"))) == (["t0"], 3)


def test_not_a_number_is_kept(store: Store) -> None:
    tracker = store.open()
    write_trial(tracker)
    tracker.log("t0", 3, {"train/loss": math.nan})
    tracker.flush()
    step, value = store.points("t0", "train/loss")[-1]
    assert step == 3
    assert math.isnan(value)


def test_the_same_key_with_other_parameters_is_refused(store: Store) -> None:
    write_trial(store.open())
    tracker = store.open()
    tracker.begin_study(STUDY)
    with pytest.raises(TrackingError, match=r"mask_ratio is 0\.9 now but was stored as 0\.2"):
        tracker.begin_trial(replace(TRIAL, parameters={**POINT, "mask_ratio": 0.9}))


CALLS: dict[str, Callable[[Tracker], object]] = {
    "begin_trial": lambda tracker: tracker.begin_trial(TRIAL),
    "log": lambda tracker: tracker.log("t0", 0, {}),
    "describe": lambda tracker: tracker.describe("", {}),
    "end_trial": lambda tracker: tracker.end_trial("t0", "finished", {}),
    "end_study": lambda tracker: tracker.end_study("finished", [], {}),
    "flush": lambda tracker: tracker.flush(),
}


@pytest.mark.parametrize("call", CALLS)
def test_calls_before_the_study_are_refused(store: Store, call: str) -> None:
    with pytest.raises(TrackingError, match="begin_study"):
        CALLS[call](store.open())


def test_an_unknown_trial_is_refused(store: Store) -> None:
    tracker = store.open()
    tracker.begin_study(STUDY)
    with pytest.raises(TrackingError, match="'nope' was not started"):
        tracker.log("nope", 0, {})


def test_mlflow_scheme(mlflow_store: MlflowStore) -> None:
    tracker = mlflow_store.open()
    write_trial(tracker)
    tracker.end_trial("t0", "failed", {}, "ValueError: no")
    run = mlflow_store._trial("t0")
    parent = mlflow_store._runs("study")[0]
    assert run.info.run_name == "7: mask 0.20, N 16"
    note = "Trial 7: mask 0.20, N 16\n\nhow to run it"
    assert run.data.tags["mlflow.note.content"] == note
    (file,) = mlflow_store.client.list_artifacts(run.info.run_id)
    assert file.path == "run.yaml"
    assert run.info.status == "FAILED"
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.data.params["optimizer_log10_lr"] == "-3.0000"
    assert sorted(run.data.params)[:3] == ["accumulation_interval", "learning_rate", "mask_ratio"]
    assert parent.data.params == {"trials": "12"}
    assert parent.data.tags["mlflow.note.content"] == "**note**"
    assert "gmt.parent_key" not in run.data.tags
    tracker.begin_trial(replace(TRIAL, key="t1", number=1, parent_key="t0", parent_step=40))
    [fork] = [r for r in mlflow_store._runs("trial") if r.data.tags["gmt.trial_key"] == "t1"]
    lineage = {name: fork.data.tags[name] for name in ("gmt.parent_key", "gmt.parent_step")}
    assert lineage == {"gmt.parent_key": "t0", "gmt.parent_step": "40"}
    tracker.describe("", {DESCRIPTION: "**found**"})
    assert mlflow_store._runs("study")[0].data.tags["mlflow.note.content"] == "**found**"
    assert {
        point.timestamp
        for point in mlflow_store.client.get_metric_history(run.info.run_id, "train/loss")
    } == {1_000_000, 1_001_000, 1_002_000}


def test_mlflow_averages_the_replicates_of_an_arm_and_no_other_stage(
    mlflow_store: MlflowStore,
) -> None:
    tracker = mlflow_store.open()
    arms = ("method", "mask_ratio")
    tracker.begin_study(replace(STUDY, trial_kind="replicate", arms=arms))
    for number, stage in enumerate(("tuning", "replicate", "fresh")):
        tracker.begin_trial(TrialInfo(f"t{number}", number, {**POINT, "stage": stage}, number))
    (_, every), (label, means) = tracker.links().items()
    assert every.startswith("/#/experiments/")
    assert every.endswith("&workflowType=machine_learning")
    assert label == "compare replicates, means by method and mask_ratio"
    assert [len(shown_by(mlflow_store, link)) for link in (every, means)] == [3, 1]
    assert shown_by(mlflow_store, means) == ["t1"]
    keys = view_of(mlflow_store, means)["groupBy"]["groupByKeys"]
    assert [key["groupByData"] for key in keys] == [*arms]


def view_of(store: MlflowStore, link: str) -> dict[str, Any]:
    """The state of the page behind a link."""
    view_id = link.partition("viewStateShareKey=")[2].partition("&")[0]
    experiment = store.client.get_experiment(store.experiment_id())
    state = json.loads(experiment.tags[f"mlflow.sharedViewState.{view_id}"])["state"]
    return dict(json.loads(state))


def shown_by(store: MlflowStore, link: str) -> list[str]:
    """The keys of the trials that the page behind a link lists."""
    search = view_of(store, link)["searchFilter"]
    runs = store.client.search_runs([store.experiment_id()], search)
    return [run.data.tags["gmt.trial_key"] for run in runs]


def test_mlflow_infinity_does_not_flatten_charts(mlflow_store: MlflowStore) -> None:
    tracker = mlflow_store.open()
    write_trial(tracker)
    tracker.log("t0", 3, {"train/loss": math.inf})
    tracker.flush()
    assert math.isnan(mlflow_store.points("t0", "train/loss")[-1][1])


def test_mlflow_sends_many_points_in_batches(mlflow_store: MlflowStore) -> None:
    tracker = mlflow_store.open()
    write_trial(tracker)
    for step in range(2500):
        tracker.log("t0", step, {"train/grad_norm": float(step)})
    tracker.flush()
    assert len(mlflow_store.points("t0", "train/grad_norm")) == 2500


def test_mlflow_takes_many_facts_of_any_name(mlflow_store: MlflowStore) -> None:
    tracker = mlflow_store.open()
    write_trial(tracker)
    tracker.describe("t0", {f"data/{n}@a,b": "1" for n in range(120)})
    assert set(facts_of(mlflow_store._trial("t0"))) == {f"data/{n}_at_a_b" for n in range(120)}


def test_mlflow_artifacts_stay_beside_the_file(
    mlflow_store: MlflowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    write_trial(mlflow_store.open())
    assert list(elsewhere.iterdir()) == []
    assert len(list((tmp_path / "mlflow-artifacts").rglob("config.yaml"))) == 1
