"""A driver with an object store: it holds the sweep, and the store is as its folder is."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState
from typer.testing import CliRunner

from sweeps.cli.app import app
from sweeps.cli.doctor import check_cluster
from sweeps.config.load import load_config
from sweeps.config.resources import Resources
from sweeps.config.sweep_config import paths_for
from sweeps.execution import worker_session
from sweeps.execution.remote_job import Stored
from sweeps.execution.results import open_results
from sweeps.execution.sweep import open_study
from sweeps.search.trial_records import Records
from sweeps.storage import database_backup, remote_sync
from sweeps.storage.address import Address
from sweeps.storage.errors import UserError
from sweeps.storage.object_store import ObjectStore
from sweeps.storage.run_lock import local_driver
from sweeps.storage.study_paths import StudyPaths
from tests.sweeps.conftest import Tree
from tests.sweeps.object_stores import FakeStore
from tests.sweeps.played import DIVERGED, FINISHED, OOM, play, trial_folders
from tests.sweeps.storage.machines import elsewhere, quiet, read, write


def written(tree: Tree, bucket: Address, folder: Path) -> Path:
    """The YAML of a sweep that lies in the bucket."""
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(tree | {"storage": str(bucket), "data_root": str(folder)}))
    return file


def wait_until(happened: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_folder_as_storage_is_left_alone(tmp_path: Path) -> None:
    place = StudyPaths(tmp_path / "sweep")
    assert remote_sync.remote_of(place) is None
    remote_sync.refresh(place)
    assert not place.folder.exists()
    with remote_sync.acquire_run(place, quiet):
        assert [each.name for each in place.folder.iterdir()] == ["drivers"]


def test_what_a_driver_writes_is_there_while_it_runs_and_at_its_end(
    place: StudyPaths, store: ObjectStore
) -> None:
    with remote_sync.acquire_run(place, quiet):
        (place.folder / "sweep.yaml").write_text("name: sweep")
        wait_until(lambda: "sweep/sweep.yaml" in store.files())
        (place.folder / "report.html").write_text("last")
    assert set(store.files()) == {"sweep/sweep.yaml", "sweep/report.html"}


def test_a_driver_outlives_an_outage_and_sends_all_of_it_then(
    place: StudyPaths, store: ObjectStore, server: FakeStore
) -> None:
    said: list[str] = []
    with remote_sync.acquire_run(place, said.append):
        with server.outage():
            (place.folder / "sweep.yaml").write_text("name: sweep")
            wait_until(lambda: said, 60)
        assert "does not respond" in said[0]
    assert set(store.files()) == {"sweep/sweep.yaml"}


def test_the_database_comes_back_on_a_new_machine(
    place: StudyPaths, store: ObjectStore, home: Path, tmp_path: Path
) -> None:
    live = place.optuna_live()
    assert place.is_copied()
    with remote_sync.acquire_run(place, quiet) as driver:
        with remote_sync.database_kept(place, driver, quiet):
            write(live, 7)
        assert store.stat("sweep/optuna.db") is not None
    home.rename(tmp_path / "lost")
    with (
        remote_sync.acquire_run(place, quiet) as driver,
        remote_sync.database_kept(place, driver, quiet),
    ):
        assert read(live) == [7]
        write(live, 8)
    remote_sync.refresh(there := elsewhere(place, tmp_path))
    assert read(there.optuna_copy()) == [7, 8]


def test_a_database_whose_copy_was_not_delivered_is_the_newest(
    place: StudyPaths, store: ObjectStore, server: FakeStore
) -> None:
    live, copy = place.optuna_live(), place.optuna_copy()
    with remote_sync.acquire_run(place, quiet) as driver:
        with remote_sync.database_kept(place, driver, quiet):
            write(live, 1)
        with server.outage(), remote_sync.database_kept(place, driver, quiet):
            write(live, 2)
        assert read(copy) == [1, 2]
        remote_sync.remote_of(place).download()  # type: ignore[union-attr]
        assert read(copy) == [1]
        assert not database_backup.restore(live, copy)
        assert read(live) == [1, 2]


def test_a_folder_is_removed_here_and_there(place: StudyPaths, store: ObjectStore) -> None:
    weights = place.folder / "math/trials/0/model"
    store.put("sweep/math/trials/0/model/weights", b"w")
    with remote_sync.acquire_run(place, quiet):
        weights.mkdir(parents=True)
        remote_sync.remover(place)([weights])
        assert not weights.exists()
        wait_until(lambda: not store.files("sweep/math/trials/0/model"))


def test_a_store_that_refuses_is_told_in_a_sentence(server: FakeStore, home: Path) -> None:
    address = Address.parse(server.address("nobodys/a"))
    place = StudyPaths(address.mirror() / "sweep", address)
    with pytest.raises(UserError, match="no such bucket"):
        remote_sync.check_storage(place)
    with server.outage(), pytest.raises(UserError, match="does not respond"):
        remote_sync.refresh(place)


def test_a_sweep_that_was_never_run_leaves_no_folder(place: StudyPaths) -> None:
    remote_sync.refresh(place)
    assert not place.folder.exists()


def test_an_outage_as_workers_start_is_a_sentence(
    place: StudyPaths, server: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_session, "ray_session", lambda resources: nullcontext(1))
    monkeypatch.setattr(worker_session, "require_shared", lambda storage: None)
    seen = Stored(str(place.address), str(place.folder.parent), one_node=False)
    with (
        server.outage(),
        pytest.raises(UserError, match="does not respond"),
        worker_session.worker_session(Resources(), place.folder, seen),
    ):
        pass


def test_an_outage_is_a_finding_of_the_cluster(place: StudyPaths, server: FakeStore) -> None:
    with server.outage():
        found = check_cluster(str(place.address), "")
    (finding,) = found["the cluster"]
    assert not finding.ok and "does not respond" in finding.said


def test_only_a_driver_of_this_machine_makes_its_folder_the_newest(
    place: StudyPaths, store: ObjectStore
) -> None:
    store.put("sweep/sweep.yaml", b"old")
    with remote_sync.acquire_run(place, quiet):
        assert (place.folder / "sweep.yaml").read_text() == "old"
        assert local_driver(place.folder)
        store.put("sweep/sweep.yaml", json.dumps("another").encode())
        remote_sync.refresh(place)
        assert (place.folder / "sweep.yaml").read_text() == "old"


def test_failed_trials_that_the_head_queued_again_are_known_when_it_is_lost(
    tree: Tree, bucket: Address, home: Path, tmp_path: Path
) -> None:
    file = written(tree, bucket, tmp_path)
    place = paths_for(load_config(file))
    with (
        remote_sync.acquire_run(place, quiet) as driver,
        remote_sync.database_kept(place, driver, quiet),
    ):
        play(OOM, FINISHED, source=file)
    said = CliRunner().invoke(app, ["retry", str(file), "--failed"])
    assert said.exit_code == 0, said.output
    home.rename(tmp_path / "lost")
    config = load_config(file)
    assert [trial.state for trial in Records(config).trials("sums")][-1] == TrialState.WAITING


def test_failed_trials_are_queued_again_from_another_machine(
    tree: Tree, bucket: Address, store: ObjectStore, home: Path, tmp_path: Path
) -> None:
    file = written(tree, bucket, tmp_path)
    place = paths_for(load_config(file))
    with remote_sync.acquire_run(place, quiet) as driver:
        with remote_sync.database_kept(place, driver, quiet):
            config = play(OOM, FINISHED, DIVERGED, source=file)
        keys = [folder.name for folder in trial_folders(config)]
        for key in keys:
            store.put(f"small/sums/trials/{key}/result.json", b"{}")
    head = home.rename(tmp_path / "head")
    said = CliRunner().invoke(app, ["retry", str(file), "--failed"])
    assert said.exit_code == 0, said.output
    assert "trial 0" in said.stdout
    left = {name for name in store.files("small/sums/trials") if name.endswith("result.json")}
    assert left == {f"small/sums/trials/{keys[1]}/result.json"}
    assert f"small/sums/trials/{keys[0]}/failure.log" not in store.files()
    (tmp_path / "home").rename(tmp_path / "laptop")
    head.rename(home)
    with (
        remote_sync.acquire_run(place, quiet) as driver,
        remote_sync.database_kept(place, driver, quiet),
    ):
        study = open_study(config, "sums")
        waiting = study.get_trials(states=(TrialState.WAITING,))
    assert [trial.user_attrs["number"] for trial in waiting] == [0, 2]


def test_a_trials_history_is_read_from_another_machine(
    tree: Tree, bucket: Address, store: ObjectStore, home: Path, tmp_path: Path
) -> None:
    file = written(tree, bucket, tmp_path)
    place = paths_for(load_config(file))
    with (
        remote_sync.acquire_run(place, quiet) as driver,
        remote_sync.database_kept(place, driver, quiet),
    ):
        config = play(FINISHED, source=file)
        (folder,) = trial_folders(config)
    events = [{"kind": "step", "step": n, "metrics": {"train/loss": 1.0 / n}} for n in (1, 2)]
    lines = "".join(json.dumps(event) + "\n" for event in events)
    store.put(f"small/sums/trials/{folder.name}/events.jsonl", lines.encode())
    home.rename(tmp_path / "lost")
    assert list(open_results(file).history("sums", 0)["train/loss"]) == [1.0, 0.5]
