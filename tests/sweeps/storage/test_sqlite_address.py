"""A storage may have any name: its databases lie in it, and printed addresses work."""

from __future__ import annotations

import json
import sqlite3
import urllib.request
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from sweeps.execution.cluster import free_port
from sweeps.search.optuna_storage import open_storage
from sweeps.storage.address import sqlite_address, sqlite_path
from sweeps.storage.database_backup import backup, restore
from sweeps.storage.study_paths import StudyPaths
from sweeps.tracking.mlflow_server import serving
from sweeps.tracking.mlflow_store import check_store, tracking_uri
from sweeps.tracking.mlflow_tracker import MlflowTracker
from sweeps.tracking.tracker import StudyInfo, TrackingError

NAMES = ("plain", "with space", "Ünï", "a?b", "a%41b", "50%", "a#b", "{x}", "Ünï c?o%41d#e{x}")
STUDY = StudyInfo("s/math", "s", "math", "domain: math\n", "abc", "note", {"trials": "1"})


@pytest.mark.parametrize("name", NAMES)
def test_an_address_leads_back_to_its_file(name: str) -> None:
    file = Path("/data") / name / "mlflow.db"
    assert sqlite_path(sqlite_address(file)) == file
    assert sqlite_address(Path("/data/plain/mlflow.db")) == "sqlite:////data/plain/mlflow.db"


def test_a_question_mark_that_begins_no_options_is_refused() -> None:
    with pytest.raises(TrackingError, match="as %3F"):
        check_store("sqlite:////data/what?/mlflow.db")


@pytest.mark.parametrize("name", NAMES)
def test_optuna_keeps_its_database_in_the_storage(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    storage = open_storage(StudyPaths(folder))
    optuna.create_study(study_name="s/math", storage=storage)
    assert [path.name for path in tmp_path.rglob("*")] == [name, "optuna.db"]
    storage.engine.dispose()


def tracked(folder: Path) -> MlflowTracker:
    """A tracker that has written a study with a report to the storage ``folder``."""
    folder.mkdir()
    (folder / "report.html").write_text("<p>report</p>")
    tracker = MlflowTracker(tracking_uri(None, str(folder)))
    tracker.begin_study(STUDY)
    tracker.end_study("finished", [folder / "report.html"], {"final/score": 0.5})
    return tracker


def test_mlflow_keeps_all_of_its_files_in_the_storage(tmp_path: Path) -> None:
    folder = tmp_path / NAMES[-1]
    tracker = tracked(folder)
    assert list(tmp_path.iterdir()) == [folder]
    assert {each.name for each in folder.iterdir()} == {
        *("report.html", "mlflow.db", "mlflow-artifacts")
    }
    assert [path.read_text() for path in folder.rglob("artifacts/report.html")]
    again = MlflowTracker(tracking_uri(None, str(folder)))
    assert again.begin_study(STUDY) == tracker.begin_study(STUDY)


@pytest.mark.slow
def test_a_store_of_any_name_is_served(tmp_path: Path) -> None:
    folder, port = tmp_path / NAMES[-1], free_port()
    tracked(folder)
    page = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name"
    with (
        serving(folder / "mlflow.db", port),
        urllib.request.urlopen(f"{page}?experiment_name=gmt/math") as answer,
    ):
        found = json.load(answer)["experiment"]
    assert found["artifact_location"] == (folder / "mlflow-artifacts").as_uri()


@pytest.mark.parametrize("name", NAMES)
def test_the_copy_of_a_database_lies_in_the_storage(name: str, tmp_path: Path) -> None:
    live, copy = tmp_path / name / "live" / "optuna.db", tmp_path / name / "optuna.db"
    live.parent.mkdir(parents=True)
    with closing(sqlite3.connect(live)) as connection, connection:
        connection.execute("create table points (value)")
    backup(live, copy)
    elsewhere = tmp_path / name / "elsewhere.db"
    assert restore(elsewhere, copy)
    with closing(sqlite3.connect(elsewhere)) as connection:
        assert connection.execute("select * from points").fetchall() == []
    assert [path.name for path in tmp_path.iterdir()] == [name]
