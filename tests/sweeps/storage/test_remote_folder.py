"""A sweep's folder and its store: the newer version of a driver's file goes to the other side."""

from __future__ import annotations

import shutil
import time
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.storage.object_store import ObjectStore, StorageError
from sweeps.storage.remote_folder import RemoteFolder
from sweeps.storage.trial_files import is_drivers, is_workers

EVENTS = "math/trials/000-key/events.jsonl"


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def remote(store: ObjectStore, home: Path) -> RemoteFolder:
    return RemoteFolder(store, home / "sweep")


def allowed() -> None:
    """The lease is held."""


def there(store: ObjectStore) -> set[str]:
    return {name.removeprefix("sweep/") for name in store.files("sweep")}


DRIVERS = {
    "sweep.yaml": "name: sweep",
    "math/test_scores.json": "{}",
    "math/report/report.html": "<p>",
    "math/trials/000-key/run.yaml": "seed: 0",
    "math/trials/000-key/failure.log": "",
    "spent/ab.gpu_hours": "1.0",
}
NOT_SENT = {
    "optuna.db": "its own way",
    "optuna.db-journal": "",
    "queue.lock": "",
    "drivers/ab.json": "{}",
    "requests/stop-math-3.json": "{}",
    "math/forks/000-key/checkpoint/step-1/state.pt": "s",
    "groups/group-1/marker": "",
    "math/tune-20260101-000000/state.json": "",
    "math/trials/000-key/sent": "",
    EVENTS: "{}",
    "math/trials/000-key/model/weights": "w",
    "math/trials/000-key/checkpoint/step-1/state.pt": "s",
    "math/trials/000-key/result.json": "{}",
    "sweep.yaml.1234.partial": "",
    ".probe": "",
}


def test_the_drivers_files_go_up_and_come_down_and_no_others(
    store: ObjectStore, tmp_path: Path
) -> None:
    one, two = remote(store, tmp_path / "one"), remote(store, tmp_path / "two")
    write(one.folder, DRIVERS | NOT_SENT)
    one.upload(allowed)
    assert there(store) == set(DRIVERS)
    store.put("sweep/math/trials/001-key/events.jsonl", b"{}")  # of a worker
    two.download()
    for name, text in DRIVERS.items():
        assert (two.folder / name).read_text() == text
    assert not (two.folder / EVENTS).exists()
    assert (two.folder / "math/trials/001-key").is_dir()


@given(st.sampled_from(sorted(DRIVERS | NOT_SENT)))
def test_nothing_has_two_owners(name: str) -> None:
    path = PurePosixPath(name)
    assert not (is_drivers(path) and is_workers(path))
    assert is_drivers(path) == (name in DRIVERS)


def test_the_newer_version_of_a_file_counts(store: ObjectStore, tmp_path: Path) -> None:
    one, two = remote(store, tmp_path / "one"), remote(store, tmp_path / "two")
    write(one.folder, {"a.json": "1", "b.json": "1", "c.json": "1"})
    one.upload(allowed)
    two.download()
    write(two.folder, {"a.json": "two's"})
    time.sleep(1.1)  # the store's clock has whole seconds
    two.upload(allowed)
    write(one.folder, {"b.json": "one's"})
    again = remote(store, tmp_path / "one")
    again.download()
    assert (one.folder / "a.json").read_text() == "two's"
    assert (one.folder / "b.json").read_text() == "one's"
    again.upload(allowed)
    assert store.read("sweep/a.json") == b"two's"
    assert store.read("sweep/b.json") == b"one's"
    assert there(store) == {"a.json", "b.json", "c.json"}


def test_what_was_downloaded_is_not_uploaded_again(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = remote(store, tmp_path / "one"), remote(store, tmp_path / "two")
    write(one.folder, {"a.json": "1"})
    one.upload(allowed)
    two.download()
    monkeypatch.setattr(ObjectStore, "upload", None)
    two.upload(allowed)
    again = remote(store, tmp_path / "two")
    monkeypatch.setattr(ObjectStore, "download", None)
    again.download()
    again.upload(allowed)


def test_a_push_sends_what_changed_and_nothing_else(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = remote(store, tmp_path)
    write(one.folder, {"a.json": "1", "b.json": "1"})
    one.upload(allowed)
    sent = []
    upload = ObjectStore.upload

    def noted(self: ObjectStore, file: Path, path: str) -> None:
        sent.append(path)
        upload(self, file, path)

    monkeypatch.setattr(ObjectStore, "upload", noted)
    one.upload(allowed)
    write(one.folder, {"b.json": "22"})
    one.upload(allowed)
    assert sent == ["sweep/b.json"]


def test_a_folder_that_was_lost_comes_back_and_nothing_is_removed_for_it(
    store: ObjectStore, tmp_path: Path
) -> None:
    one = remote(store, tmp_path)
    write(one.folder, DRIVERS)
    one.upload(allowed)
    shutil.rmtree(one.folder)
    one.download()
    one.upload(allowed)
    assert there(store) == set(DRIVERS)
    assert {n for n in DRIVERS if (one.folder / n).exists()} == set(DRIVERS)


def test_the_database_comes_with_every_pull(store: ObjectStore, tmp_path: Path) -> None:
    one, two = remote(store, tmp_path / "one"), remote(store, tmp_path / "two")
    for text in ("first", "other"):  # of one size, within a second
        write(one.folder, {"optuna.db": text})
        one.upload_database()
        two.download()
        assert (two.folder / "optuna.db").read_text() == text


def test_events_come_in_parts(store: ObjectStore, tmp_path: Path) -> None:
    one = remote(store, tmp_path)
    one.folder.mkdir()
    file = one.folder / EVENTS
    one.download_lines(file)
    assert not file.exists()
    for text in ("1\n", "1\n2\n", "1\n2\n3\n", "1\n2\n3\n", "1\n"):  # the last: a lost try's end
        store.put(f"sweep/{EVENTS}", text.encode())
        one.download_lines(file)
        assert file.read_text() == text


def test_what_is_removed_goes_from_the_store_and_nothing_beside_it(
    store: ObjectStore, tmp_path: Path
) -> None:
    one = remote(store, tmp_path)
    trials = "sweep/math/trials"
    for name in ("0/model/a", "0/model/b/c", "0/models", "0/result.json", "1/model/a"):
        store.put(f"{trials}/{name}", b"x")
    first = one.folder / "math/trials/0"
    one.remove([first / "model", first / "checkpoint", first / "result.json"])
    left = {name.removeprefix(f"{trials}/") for name in store.files("sweep")}
    assert left == {"0/models", "1/model/a"}


def test_a_folder_is_copied_from_the_store(store: ObjectStore, tmp_path: Path) -> None:
    one = remote(store, tmp_path)
    place = one.folder / "math/trials/0/model"
    assert not one.download_tree(place, tmp_path / "out")
    store.put("sweep/math/trials/0/model/a/b", b"x")
    assert one.download_tree(place, tmp_path / "out")
    assert (tmp_path / "out/a/b").read_text() == "x"


def test_each_change_of_the_store_is_asked_for(store: ObjectStore, tmp_path: Path) -> None:
    one = remote(store, tmp_path)
    one.folder.mkdir()
    for name in ("a.html", "b.html"):
        (tmp_path / "sweep" / name).write_text(name)

    def allowed_once() -> None:
        asked.append(1)
        if len(asked) > 1:
            raise StorageError("no more")

    asked: list[int] = []
    with pytest.raises(StorageError, match="no more"):
        one.upload(allowed_once)
    assert len(store.files()) == 1
    one.upload(allowed)
    assert len(store.files()) == 2


def test_a_file_that_was_removed_by_hand_comes_back(store: ObjectStore, tmp_path: Path) -> None:
    one = remote(store, tmp_path)
    one.folder.mkdir()
    report = tmp_path / "sweep/report.html"
    report.write_text("a")
    one.upload(allowed)
    report.unlink()
    one.download()
    assert report.read_text() == "a"
    one.upload(allowed)
    assert "sweep/report.html" in store.files()
