"""The copy of the studies' database: whole, soon, and what a lost head is brought back from."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from sweeps.storage import database_backup
from sweeps.storage.errors import UserError


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """The live database's file, and its copy's in the storage."""
    (tmp_path / "storage").mkdir()
    return tmp_path / "head" / "optuna.db", tmp_path / "storage" / "optuna.db"


def write(file: Path, word: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("create table if not exists words (word text)")
        connection.execute("insert into words values (?)", (word,))


def words(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as connection:
        return [row[0] for row in connection.execute("select word from words")]


def test_on_one_machine_there_is_one_file(places: tuple[Path, Path]) -> None:
    live, _ = places
    live.parent.mkdir()
    with database_backup.kept(live, live, print):
        write(live, "a")
    assert [path.name for path in live.parent.iterdir()] == ["optuna.db"]


def test_every_change_is_copied_within_a_beat(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_backup, "BEAT_SECONDS", 0.05)
    live, copy = places
    with database_backup.kept(live, copy, print):
        for number, word in enumerate("abc", start=1):
            write(live, word)
            end = time.monotonic() + 10
            while (not copy.exists() or len(words(copy)) < number) and time.monotonic() < end:
                time.sleep(0.02)
            assert words(copy) == list("abc")[:number]
        write(live, "d")
    assert words(copy) == list("abcd")  # the end does not wait for a beat


def test_a_lost_disk_is_brought_back(places: tuple[Path, Path]) -> None:
    live, copy = places
    with database_backup.kept(live, copy, print):
        write(live, "a")
    for file in live.parent.iterdir():
        file.unlink()
    with database_backup.kept(live, copy, print):
        assert words(live) == ["a"]
        write(live, "b")
    assert words(copy) == ["a", "b"]


def test_what_the_copy_has_not_seen_is_kept(places: tuple[Path, Path]) -> None:
    """The driver was killed after its last copy: its own disk is ahead."""
    live, copy = places
    with database_backup.kept(live, copy, print):
        write(live, "a")
    write(live, "b")
    assert not database_backup.restore(live, copy)
    assert words(live) == ["a", "b"]


def test_a_driver_that_went_on_elsewhere_is_ahead(places: tuple[Path, Path]) -> None:
    live, copy = places
    with database_backup.kept(live, copy, print):
        write(live, "a")
    other = live.parent.parent / "new-head" / "optuna.db"
    with database_backup.kept(other, copy, print):
        write(other, "elsewhere")
    write(live, "forgotten")
    assert database_backup.restore(live, copy)
    assert words(live) == ["a", "elsewhere"]
    assert words(live.with_suffix(".superseded")) == ["a", "forgotten"]


def test_a_driver_killed_between_copy_and_mark_left_its_own_copy(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    live, copy = places
    with database_backup.kept(live, copy, print):
        write(live, "a")
    write(live, "b")
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        found = replace(self, target)
        if target == copy:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "replace", killed)
        database_backup.backup(live, copy)
    assert words(copy) == ["a", "b"]
    write(live, "c")
    assert not database_backup.restore(live, copy)
    assert words(live) == ["a", "b", "c"]


def test_a_copy_that_fails_is_said_once_and_tried_again(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_backup, "BEAT_SECONDS", 0.05)
    live, copy = places
    said: list[str] = []
    with database_backup.kept(live, copy, said.append):
        copy.parent.rename(copy.parent.with_name("unmounted"))
        write(live, "a")
        end = time.monotonic() + 10
        while not said and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.2)
        copy.parent.with_name("unmounted").rename(copy.parent)
        while not copy.exists() and time.monotonic() < end:
            time.sleep(0.02)
        assert words(copy) == ["a"]
    assert len(said) == 1
    assert "could not be written" in said[0]


def test_a_last_copy_that_fails_hides_no_error(places: tuple[Path, Path]) -> None:
    live, copy = places
    with pytest.raises(ValueError, match="first"), database_backup.kept(live, copy, print):
        copy.parent.rename(copy.parent.with_name("unmounted"))
        write(live, "a")
        raise ValueError("first")


WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=30)
connection.execute("create table if not exists words (word text)")
print("ready", flush=True)
for number in range(10**9):
    with connection:  # two rows or none
        connection.execute("insert into words values (?)", (number,))
        connection.execute("insert into words values (?)", (number,))
    time.sleep(0.001)  # else the copies wait for their turn, and grow
"""


def test_a_last_copy_that_fails_says_where_the_records_are(places: tuple[Path, Path]) -> None:
    live, copy = places
    with (
        pytest.raises(UserError, match=f"{live}. Free disk space") as raised,
        database_backup.kept(live, copy, print),
    ):
        write(live, "a")
        copy.mkdir()  # in the way, as a full disk is
    assert str(copy) in str(raised.value)
    assert words(live) == ["a"]


def test_a_copy_is_consistent_while_another_process_writes(places: tuple[Path, Path]) -> None:
    live, copy = places
    live.parent.mkdir()
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(live)], stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        copies, found = 0, list[str]()
        while copies < 10 or len(found) < 100:  # many writes fall between and into the copies
            database_backup.backup(live, copy)
            copies, found = copies + 1, words(copy)
            assert len(found) % 2 == 0 and found[::2] == found[1::2]
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    database_backup.backup(live, copy)  # also of what a killed writer left


def test_optuna_goes_on_from_the_copy(places: tuple[Path, Path]) -> None:
    live, copy = places
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def study() -> optuna.Study:
        storage = optuna.storages.RDBStorage(f"sqlite:///{live}")
        return optuna.create_study(study_name="s", storage=storage, load_if_exists=True)

    with database_backup.kept(live, copy, print):
        first = study()
        first.tell(first.ask(), 1.0)
        first.ask()  # running when the head is lost
    live.unlink()
    with database_backup.kept(live, copy, print):
        states = [trial.state.name for trial in study().get_trials(deepcopy=False)]
    assert states == ["COMPLETE", "RUNNING"]


def test_a_copy_on_a_file_system_whose_locks_fail_is_brought_back(
    places: tuple[Path, Path],
) -> None:
    live, copy = places
    with database_backup.kept(live, copy, print):
        write(live, "a")
    live.unlink()
    with closing(sqlite3.connect(copy)) as other:
        other.execute("begin exclusive")
        assert database_backup.restore(live, copy)
    assert words(live) == ["a"]


@pytest.mark.parametrize("left", [0, 5000, 9000])
def test_a_copy_that_is_not_whole_replaces_nothing(places: tuple[Path, Path], left: int) -> None:
    live, copy = places
    with database_backup.kept(live, copy, print):
        write(live, "a" * 20_000)
    copy.write_bytes(copy.read_bytes()[:left])
    with pytest.raises(UserError, match=r"not a valid database.*remove optuna\.db"):
        database_backup.restore(live, copy)
    assert words(live) == ["a" * 20_000]
    copy.unlink()
    assert not database_backup.restore(live, copy)
