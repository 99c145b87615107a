"""Requests and kept checkpoints, in a folder and in an object store."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.execution.remote_job import Stored, StoredJob
from sweeps.finetune import checkpoint
from sweeps.finetune.checkpoint import Checkpoint, saved
from sweeps.storage import mailbox
from sweeps.storage.address import Address
from sweeps.storage.mailbox import Mailbox
from sweeps.storage.object_store import StorageError
from sweeps.storage.remote_sync import copy_within, files_below, remote_of
from sweeps.storage.study_paths import StudyPaths
from tests.sweeps.finetune import tiny
from tests.sweeps.jobs import trial_job
from tests.sweeps.object_stores import FakeStore
from tests.sweeps.storage.conftest import place_of_its_own


@pytest.fixture(params=["folder", "store"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> StudyPaths:
    """A sweep in a folder, and one in an object store."""
    if request.param == "folder":
        return StudyPaths(tmp_path / "sweep")
    request.getfixturevalue("home")
    servers: dict[str, FakeStore] = request.getfixturevalue("servers")
    bucket = Address.parse(servers["s3"].address(place_of_its_own(request)))
    return StudyPaths(bucket.mirror() / "sweep", bucket)


def test_a_request_stays_until_it_is_settled(shared: StudyPaths) -> None:
    one, driver = Mailbox(shared), Mailbox(shared)
    assert driver.waiting() == {}
    one.post("b.json", "second")
    one.post("a.json", "first")
    one.post("a.json", "again")
    assert list(driver.waiting().items()) == [("a.json", "again"), ("b.json", "second")]
    driver.remove("a.json")
    driver.remove("a.json")  # another process settled it
    assert Mailbox(shared).waiting() == {"b.json": "second"}


def test_a_store_is_not_listed_at_every_look(
    place: StudyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Mailbox(place)
    assert driver.due() == {}
    Mailbox(place).post("a.json", "{}")
    assert driver.due() == {}
    monkeypatch.setattr(mailbox, "STORE_POLL_SECONDS", 0.0)
    assert driver.due() == {"a.json": "{}"}


def test_an_outage_is_said(place: StudyPaths, server: FakeStore) -> None:
    driver = Mailbox(place)
    with server.outage(), pytest.raises(StorageError):
        driver.waiting()


def test_a_checkpoint_is_kept_for_a_fork_and_reaches_its_worker(
    shared: StudyPaths, tmp_path: Path
) -> None:
    trial = tmp_path / "worker"
    checkpoint.save(trial, "run", Checkpoint(4, None, {}, {}, {}, 0.0, 0.0))
    (source,) = saved(trial)
    there = shared.checkpoints("math", "000-key") / source.name
    if (remote := remote_of(shared)) is None:
        there.parent.mkdir(parents=True)
        source.rename(there)
    else:
        path = f"sweep/math/trials/000-key/checkpoint/{source.name}/state.pt"
        remote.store.upload(source / "state.pt", path)
    target = shared.fork_starts("math", "000-key") / source.name
    for _ in range(2):
        copy_within(shared, there, target, "state.pt")
    assert [str(path) for path in files_below(shared, target)] == ["state.pt"]
    with pytest.raises(FileNotFoundError):
        copy_within(shared, there.with_name("gone"), target.with_name("gone"), "state.pt")
    if shared.address is None:
        return

    def run(job: object, report: object, memory: object) -> None:
        start = job.run.start_from  # type: ignore[attr-defined]
        assert not start.startswith(str(shared.folder))
        assert Path(start, "state.pt").is_file()
        memory["ran"] = True  # type: ignore[index]

    stored = Stored(str(shared.address), str(shared.address.mirror()), one_node=False)
    forked = tiny.config(Path("nowhere")).model_copy(update={"start_from": str(target)})
    job = trial_job(key="001-key", folder=str(shared.trial("math", "001-key")), run=forked)
    memory: dict[str, object] = {}
    StoredJob(stored, run)(job, lambda check: True, memory)
    assert memory["ran"]
