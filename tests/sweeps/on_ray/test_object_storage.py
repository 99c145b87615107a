"""A sweep whose storage is an object store: the machine may be lost, and another one goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("moto")

from fault_processes import descendants
from fault_sweep import ROOT, config

from sweeps.storage.address import Address
from sweeps.storage.object_store import ObjectStore
from tests.sweeps.object_stores import ENVIRONMENT, FakeS3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

FINISHED = "result.json"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    server = FakeS3()
    try:
        server.bucket("sweeps")
        yield server
    finally:
        server.close()


class Machine:
    """A home of its own, in which commands are run; to lose it is to lose its processes and it."""

    def __init__(self, home: Path, sweep: Path) -> None:
        self.home, self._sweep = home, sweep
        home.mkdir()
        names = {"HOME": str(home), "PYTHONPATH": str(ROOT)}
        self._environment = {**os.environ, **ENVIRONMENT, **names}
        self._environment.pop("RAY_ADDRESS", None)
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, command: str, *options: str) -> subprocess.Popen[str]:
        with (self.home / f"{command}-{len(self.processes)}.txt").open("w") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "sweeps", command, str(self._sweep), *options],
                cwd=ROOT,
                env=self._environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def ask(self, command: str, *options: str, code: int = 0) -> str:
        """Run a command to its end; what it said."""
        process = self.start(command, *options)
        found = process.wait(600)
        said = (self.home / f"{command}-{len(self.processes) - 1}.txt").read_text()
        assert found == code, said[-3000:]
        return said

    def lose(self) -> None:
        """kill -9 of everything that it runs, and an empty disk."""
        for process in self.processes:
            for pid in (*descendants(process.pid), process.pid):
                if process.poll() is None:
                    os.kill(pid, 9)
            process.wait()
        shutil.rmtree(self.home)
        self.home.mkdir()
        self.processes.clear()


def longer(storage: str) -> dict[str, Any]:
    """The sweep of the fault table with trials of some seconds, that save after each update or
    two."""
    tree = config(Path("unused"), "")
    tree |= {"storage": storage, "tracking": {}}
    tree["resources"]["workers"] = 1
    tree["training"] |= {"examples": 384, "checkpoint_updates": 2}
    return tree


def scores(records: str) -> dict[str, Any]:
    """Score by point, of every trial, from `leaderboard --json`."""
    return {
        f"{row['mask_ratio']} {row['seed']} {row['stage']}": (row["state"], row["score"])
        for row in json.loads(records)["result"]["math"]
    }


def wait_until(happened: Any, what: str) -> None:
    deadline = time.monotonic() + 300
    while not happened():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.3)


def trials(store: ObjectStore) -> dict[str, set[str]]:
    """What the store has of each trial."""
    found: dict[str, set[str]] = {}
    for name in store.files("faults/math/trials"):
        _, _, _, key, *rest = name.split("/")
        found.setdefault(key, set()).add("/".join(rest))
    return found


def results(store: ObjectStore) -> int:
    """How many trials have ended."""
    return sum(FINISHED in names for names in trials(store).values())


def is_saved(names: set[str]) -> bool:
    """Whether a trial that has not ended could go on."""
    return FINISHED not in names and any(name.endswith("/state.pt") for name in names)


def test_a_lost_machine_costs_nothing_that_was_in_the_bucket(s3: FakeS3, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    address = s3.address("sweeps/team")
    store = ObjectStore.open(Address.parse(address))
    sweep.write_text(yaml.safe_dump(longer(address)))
    head, laptop = Machine(tmp_path / "head", sweep), Machine(tmp_path / "laptop", sweep)

    head.start("run")
    wait_until(lambda: results(store) >= 1, "a result")
    look = json.loads(laptop.ask("status", "--json"))["result"]
    assert look["state"] == "running"
    assert look["driver"]["id"]
    wait_until(
        lambda: results(store) >= 2 and any(map(is_saved, trials(store).values())),
        "two results and a checkpoint",
    )
    head.lose()
    left = trials(store)
    claims = {key: store.read(f"faults/math/trials/{key}/claim") for key in left}
    (open_trial,) = [key for key, names in left.items() if FINISHED not in names]
    events = f"faults/math/trials/{open_trial}/events.jsonl"
    before = store.read(events)
    saved = max(int(n.split("/")[1].split("-")[1]) for n in left[open_trial] if "step-" in n)

    process = head.start("run")
    wait_until(lambda: FINISHED in trials(store)[open_trial], "the open trial's result")
    asked = laptop.ask("stop")
    assert "asked to stop" in asked
    assert process.wait(60) == 130
    said = head.ask("run")
    assert "trials to run" in said

    for key, names in left.items():
        if FINISHED in names:  # nobody took it up again
            assert store.read(f"faults/math/trials/{key}/claim") == claims[key]
    after = store.read(events)
    assert after.startswith(before)
    steps = [json.loads(line)["step"] for line in after[len(before) :].splitlines()]
    assert steps[0] == saved or steps[0] == saved + 1, (saved, steps[:5])

    shutil.rmtree(laptop.home)  # the records come from the bucket alone
    laptop = Machine(tmp_path / "other", sweep)
    found = scores(laptop.ask("leaderboard", "--json", "--top", "99"))
    beside = Machine(tmp_path / "beside", sweep)
    sweep.write_text(yaml.safe_dump(longer(str(tmp_path / "folder"))))
    beside.ask("run")
    assert found == scores(beside.ask("leaderboard", "--json", "--top", "99"))
    assert len(found) == 8
    check_bucket(store, tmp_path / "folder" / "faults")
    check_tracked(head)


def check_bucket(store: ObjectStore, folder: Path) -> None:
    """Everything is there that a folder has of such a sweep, and no weights that it has not."""
    in_store = {numberless(name.removeprefix("faults/")) for name in store.files("faults")}
    in_folder = {
        numberless(file.relative_to(folder).as_posix())
        for file in folder.rglob("*")
        if file.is_file() and file.name != "sent"
    }
    beside = {name for name in in_folder if name.startswith(("drivers/", "groups/", "math/tune-"))}
    assert in_folder - in_store == beside
    assert {name for name in in_store - in_folder if not name.endswith("/claim")} == set()


def numberless(path: str) -> str:
    """A path without its trial's number: after an interruption the next ones are higher."""
    return re.sub(r"trials/\d+-", "trials/", path)


def check_tracked(head: Machine) -> None:
    """The machine that came second tells its own tracker of every trial."""
    (database,) = head.home.glob(".gmt-sweep/mirror/*/mlflow.db")
    with sqlite3.connect(database) as connection:
        query = "select count(*) from runs where status = 'FINISHED'"
        (count,) = connection.execute(query).fetchone()
    assert count == 9  # eight trials and their study
