"""A driver with an object store: it holds the sweep, and the store is as its folder is."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.errors import UserError
from sweeps.folder import database, stored
from sweeps.folder.drivers import drivers_here, living_drivers
from sweeps.folder.load import load_config
from sweeps.folder.place import StudyPlace, place_of
from sweeps.storage.address import Address
from sweeps.storage.leases import Leases
from sweeps.storage.object_store import ObjectStore
from sweeps.study import open_study
from tests.sweeps.conftest import Tree
from tests.sweeps.driven import driven
from tests.sweeps.played import DIVERGED, FINISHED, OOM, play, trial_folders
from tests.sweeps.s3 import FakeS3


@pytest.fixture
def place(bucket: Address, home: Path, monkeypatch: pytest.MonkeyPatch) -> StudyPlace:
    monkeypatch.setattr(stored, "PUSH_SECONDS", 0.1)
    monkeypatch.setattr(stored, "BEAT_SECONDS", 0.1)
    return StudyPlace(bucket.mirror() / "sweep", bucket)


def elsewhere(place: StudyPlace, tmp_path: Path) -> StudyPlace:
    """The same sweep as another machine has it."""
    return replace(place, folder=tmp_path / "elsewhere" / "sweep")


def wait_until(happened: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def quiet(text: str) -> None:
    """Nobody listens."""


def test_a_folder_as_storage_is_left_alone(tmp_path: Path) -> None:
    place = StudyPlace(tmp_path / "sweep")
    assert stored.mirror_of(place) is None
    stored.refresh(place)
    assert not place.folder.exists()
    with stored.driven(place, quiet):
        assert [each.name for each in place.folder.iterdir()] == ["drivers"]


def test_what_a_driver_writes_is_there_while_it_runs_and_at_its_end(
    place: StudyPlace, store: ObjectStore
) -> None:
    with stored.driven(place, quiet):
        (place.folder / "sweep.yaml").write_text("name: sweep")
        wait_until(lambda: "sweep/sweep.yaml" in store.files())
        (place.folder / "report.html").write_text("last")
    assert set(store.files()) == {"sweep/sweep.yaml", "sweep/report.html"}


def test_another_machine_sees_the_driver_and_may_stop_it(
    place: StudyPlace, store: ObjectStore, tmp_path: Path
) -> None:
    there = elsewhere(place, tmp_path)

    def stop_it() -> None:
        stored.refresh(there)
        seen.extend(living_drivers(there.folder))
        stored.stop_drivers(there)

    seen: list[object] = []
    with pytest.raises(KeyboardInterrupt), stored.driven(place, quiet) as driver:
        thread = threading.Thread(target=stop_it)
        thread.start()
        time.sleep(20)
    thread.join()
    assert seen == [driver]
    stored.refresh(there)
    assert living_drivers(there.folder) == []


def test_a_sweep_that_another_machine_drives_is_refused(place: StudyPlace, tmp_path: Path) -> None:
    with stored.driven(place, quiet):
        there = elsewhere(place, tmp_path)
        with (
            pytest.raises(UserError, match="is being run already, by process"),
            stored.driven(there, quiet),
        ):
            pass
        with (
            pytest.raises(UserError, match="on another machine"),
            stored.driven(there, quiet, join=True),
        ):
            pass


def test_a_driver_that_was_taken_for_lost_stops_and_writes_no_more(
    place: StudyPlace, store: ObjectStore, tmp_path: Path
) -> None:
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt), stored.driven(place, said.append) as driver:
        leases = Leases(store, "sweep")
        leases.end(driver.id)  # as the machine does that takes over
        with pytest.raises(stored.LostError):
            stored.database_sender(place, driver)()
        time.sleep(20)
    assert any("took this one for lost" in text for text in said)
    (place.folder / "late.json").write_text("{}")
    assert "sweep/late.json" not in store.files()


def test_a_driver_outlives_an_outage_and_sends_all_of_it_then(
    place: StudyPlace, store: ObjectStore, s3: FakeS3
) -> None:
    said: list[str] = []
    with stored.driven(place, said.append):
        with s3.outage():
            (place.folder / "sweep.yaml").write_text("name: sweep")
            wait_until(lambda: said, 60)
        assert "does not answer" in said[0]
    assert set(store.files()) == {"sweep/sweep.yaml"}


def test_the_database_comes_back_on_a_new_machine(
    place: StudyPlace, store: ObjectStore, home: Path, tmp_path: Path
) -> None:
    live, copy = place.optuna_live(), place.optuna_copy()
    assert place.is_copied()
    with stored.driven(place, quiet) as driver:
        deliver = stored.database_sender(place, driver)
        with database.kept(live, copy, quiet, deliver=deliver):
            write(live, 7)
        assert store.stat("sweep/optuna.db") is not None
    home.rename(tmp_path / "lost")
    with (
        stored.driven(place, quiet) as driver,
        database.kept(live, copy, quiet, deliver=stored.database_sender(place, driver)),
    ):
        assert read(live) == [7]
        write(live, 8)
    stored.refresh(there := elsewhere(place, tmp_path))
    assert read(there.optuna_copy()) == [7, 8]


def test_a_database_whose_copy_was_not_delivered_is_the_newest(
    place: StudyPlace, store: ObjectStore, s3: FakeS3
) -> None:
    live, copy = place.optuna_live(), place.optuna_copy()
    with stored.driven(place, quiet) as driver:
        deliver = stored.database_sender(place, driver)
        live.parent.mkdir(parents=True)
        write(live, 1)
        database.copy_out(live, copy, deliver)
        write(live, 2)
        with s3.outage(), pytest.raises(ConnectionError):
            database.copy_out(live, copy, deliver)
        stored.mirror_of(place).pull()  # type: ignore[union-attr]
        assert read(copy) == [1]
        assert not database.bring_back(live, copy)
        assert read(live) == [1, 2]


def write(file: Path, value: int) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("create table if not exists t (x)")
        connection.execute("insert into t values (?)", (value,))
    connection.close()


def read(file: Path) -> list[int]:
    with sqlite3.connect(file) as connection:
        found = [x for (x,) in connection.execute("select x from t")]
    connection.close()
    return found


def test_a_folder_is_removed_here_and_there(place: StudyPlace, store: ObjectStore) -> None:
    weights = place.folder / "math/trials/0/model"
    store.put("sweep/math/trials/0/model/weights", b"w")
    with stored.driven(place, quiet):
        weights.mkdir(parents=True)
        stored.remover(place)(weights)
        assert not weights.exists()
        wait_until(lambda: not store.files("sweep/math/trials/0/model"))


def test_a_store_that_refuses_is_told_in_a_sentence(s3: FakeS3, home: Path) -> None:
    address = Address.parse(s3.address("nobodys/a"))
    place = StudyPlace(address.mirror() / "sweep", address)
    with pytest.raises(UserError, match="there is no such bucket"):
        stored.check_storage(place)
    with s3.outage(), pytest.raises(UserError, match="does not answer"):
        stored.refresh(place)


def test_only_a_driver_of_this_machine_makes_its_folder_the_newest(
    place: StudyPlace, store: ObjectStore
) -> None:
    store.put("sweep/sweep.yaml", b"old")
    with stored.driven(place, quiet):
        assert (place.folder / "sweep.yaml").read_text() == "old"
        assert drivers_here(place.folder)
        store.put("sweep/sweep.yaml", json.dumps("another").encode())
        stored.refresh(place)
        assert (place.folder / "sweep.yaml").read_text() == "old"


def test_a_driver_that_was_killed_here_is_not_waited_for(
    place: StudyPlace, store: ObjectStore
) -> None:
    with driven(place.folder) as process:
        (place.folder / ".leased").write_text("ab\n")
        Leases(store, "sweep").put("ab", "{}")
        process.kill()
        process.wait()
    said: list[str] = []
    with stored.driven(place, said.append) as driver:
        assert Leases(store, "sweep").drivers() == [driver.id]
    assert said == []


def test_failed_trials_are_queued_again_from_another_machine(
    tree: Tree, bucket: Address, store: ObjectStore, home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(tree | {"storage": str(bucket), "data_root": str(tmp_path)}))
    place = place_of(load_config(file))
    with stored.driven(place, quiet) as driver:
        live, copy = place.optuna_live(), place.optuna_copy()
        deliver = stored.database_sender(place, driver)
        with database.kept(live, copy, quiet, deliver=deliver):
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
        stored.driven(place, quiet) as driver,
        database.kept(live, copy, quiet, deliver=stored.database_sender(place, driver)),
    ):
        study = open_study(config, "sums")
        waiting = study.get_trials(states=(TrialState.WAITING,))
    assert [trial.user_attrs["number"] for trial in waiting] == [0, 2]
