"""A group's job with an object store: what it reads is here, what it writes is there."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from filelock import FileLock

from sweeps.config.load import parse_config
from sweeps.execution.job_messages import Job, Measured, MeasuringJob, ScoringJob
from sweeps.execution.remote_job import Stored, StoredJob, push_cache
from sweeps.finetune.finetune_config import ModelConfig
from sweeps.finetune.method_options import DropConfig
from sweeps.finetune.reporter import Check
from sweeps.storage.address import Address
from sweeps.storage.object_store import ObjectStore, StorageError, SupersededError
from tests.sweeps.conftest import Tree
from tests.sweeps.finetune import tiny
from tests.sweeps.finetune.processes import run_ranks
from tests.sweeps.jobs import trial_job
from tests.sweeps.object_stores import FakeStore

KEY = "sweep/math/trials/000-key"
MEASURING = MeasuringJob("measuring", {}, 0)
DONE = Measured({}, "here")


@pytest.fixture
def stored(bucket: Address, home: Path) -> Stored:
    return Stored(str(bucket), str(bucket.mirror()), one_node=False)


def work(home: Path) -> list[str]:
    """What workers left on this node."""
    place = home / ".gmt-sweep" / "work" / socket.gethostname()
    return sorted(path.name for path in place.iterdir())


def test_a_trial_writes_beside_the_drivers_folder_and_all_of_it_arrives(
    stored: Stored, store: ObjectStore, home: Path
) -> None:
    store.put(f"{KEY}/events.jsonl", b'{"step": 1}\n')
    heard: list[Any] = []

    def run(job: Any, report: Any, memory: Any) -> Any:
        folder = Path(job.folder)
        assert not str(folder).startswith(stored.mirror)
        assert (folder / "events.jsonl").read_text() == '{"step": 1}\n'
        with (folder / "events.jsonl").open("a") as events:
            events.write('{"step": 2}\n')
        assert report(Check(1, 1, 0.5))
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_text("w")
        (folder / "result.json").write_text("{}")
        return DONE

    def report(result: Any) -> bool:
        heard.append(store.read(f"{KEY}/events.jsonl"))
        return True

    job = trial_job(key="000-key", folder=f"{stored.mirror}/{KEY}")
    assert StoredJob(stored, run)(job, report, {}) == DONE
    assert heard == [b'{"step": 1}\n{"step": 2}\n']  # who hears a score reads what came before it
    names = {name.removeprefix(f"{KEY}/") for name in store.files(KEY)}
    assert names == {"claim", "events.jsonl", "model/weights", "result.json"}
    assert work(home) == []
    assert not Path(stored.mirror).exists()


def scoring(model: str) -> Job:
    return ScoringJob("key", ModelConfig(path=model), None, (), None)


def derived(model: str) -> Job:
    drop = DropConfig(tuned=model, rate=0.5)
    folder = f"{Path(model).parent.parent}/001"
    return trial_job(folder=folder, is_derived=True, drop=drop)


@pytest.mark.parametrize("build", [scoring, derived])
def test_a_model_of_another_trial_is_fetched_first(
    build: Callable[[str], Job], stored: Stored, store: ObjectStore, home: Path
) -> None:
    store.put(f"{KEY}/model/config.json", b"{}")
    store.put(f"{KEY}/events.jsonl", b"")

    def run(job: Any, report: Any, memory: Any) -> Any:
        (at,) = job.models()
        assert [file.name for file in Path(at).iterdir()] == ["config.json"]
        assert [file.name for file in Path(at).parent.iterdir()] == ["model"]
        return DONE

    job = build(f"{stored.mirror}/{KEY}/model")
    assert StoredJob(stored, run)(job, lambda result: True, {}) == DONE
    assert work(home) == []


@pytest.mark.parametrize(("parallel", "strategy"), [("ddp", "PACK"), ("fsdp", "STRICT_PACK")])
def test_workers_that_each_write_a_part_share_a_node(
    parallel: str, strategy: str, tree: Tree
) -> None:
    from sweeps.execution.tuner import scaling

    config = parse_config(tree | {"storage": "s3://bucket/a"}, "a sweep")
    training = config.training.model_copy(update={"parallel": parallel})
    stored = Stored.of(config.model_copy(update={"training": training}))
    assert stored is not None
    assert scaling(config.resources, stored.one_node).placement_strategy == strategy
    assert Stored.of(config.model_copy(update={"storage": "runs"})) is None


def test_what_killed_workers_left_goes_and_what_living_ones_use_stays(
    stored: Stored, home: Path
) -> None:
    place = home / ".gmt-sweep" / "work" / socket.gethostname()
    for name in ("dead", "living"):
        (place / name).mkdir(parents=True)
        (place / f"{name}.lock").touch()
    with FileLock(place / "living.lock"):
        StoredJob(stored, lambda job, report, memory: None)(MEASURING, lambda result: True, {})
        assert work(home) == ["living", "living.lock"]


def test_what_the_driver_generates_is_on_every_node(
    stored: Stored, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(stored.mirror) / "cache" / "mini" / "abc" / "train.jsonl"
    data.parent.mkdir(parents=True)
    data.write_text("{}")
    push_cache(stored)
    data.unlink()  # another node

    def run(job: Any, report: Any, memory: Any) -> Any:
        assert data.read_text() == "{}"
        return None

    assert StoredJob(stored, run)(MEASURING, lambda result: True, {}) is None


@pytest.mark.parametrize("name", ["jurgen", "jürgen"])
def test_a_node_has_the_cache_wherever_its_home_is(
    name: str, bucket: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / name))
    stored = Stored(str(bucket), str(bucket.mirror()), one_node=False)
    data = Path(stored.mirror) / "cache" / "train.jsonl"
    data.parent.mkdir(parents=True)
    data.write_text("{}")
    push_cache(stored)
    data.unlink()
    StoredJob(stored, lambda job, report, memory: None)(MEASURING, lambda result: True, {})
    assert data.read_text() == "{}"


def test_half_the_micro_batch_leaves_all_names_as_they_were() -> None:
    run = tiny.config(Path("/home/jürgen"))
    job = trial_job(run=run).halved()
    assert job is not None
    assert job.run == run.model_copy(update={"micro_splits": 2})


def test_a_cut_file_of_the_cache_is_sent_and_fetched_anew(
    stored: Stored, store: ObjectStore
) -> None:
    data = Path(stored.mirror) / "cache" / "train.jsonl"
    data.parent.mkdir(parents=True)
    data.write_text("{}\n{}\n")
    store.put("cache/train.jsonl", b"{}")
    push_cache(stored)
    assert store.read("cache/train.jsonl") == b"{}\n{}\n"
    data.write_text("{}")
    StoredJob(stored, lambda job, report, memory: None)(MEASURING, lambda result: True, {})
    assert data.read_text() == "{}\n{}\n"


def test_a_second_set_of_workers_does_not_wait_for_the_first(
    stored: Stored, store: ObjectStore, home: Path
) -> None:
    """Ray lost sight of the first, which lives on the same host and has not noticed."""
    job = trial_job(key="000-key", folder=f"{stored.mirror}/{KEY}")
    second = Thread(
        target=lambda: StoredJob(stored, finish)(job, lambda result: True, {}), daemon=True
    )

    def finish(job: Any, report: Any, memory: Any) -> Any:
        Path(job.folder).mkdir(parents=True)
        (Path(job.folder) / "result.json").write_text('"second"')
        return DONE

    def linger(job: Any, report: Any, memory: Any) -> Any:
        second.start()
        second.join(20)
        assert not second.is_alive()
        return finish(job, report, memory)

    with pytest.raises(SupersededError):
        StoredJob(stored, linger)(job, lambda result: True, {})
    assert store.read(f"{KEY}/result.json") == b'"second"'
    assert work(home) == []


def test_an_outage_at_the_beginning_of_a_job_is_waited_for(
    server: FakeStore, stored: Stored, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("cache/train.jsonl", b"{}")
    asked = Event()
    connect = Stored.open

    def open_(self: Stored) -> ObjectStore:
        if asked.is_set():
            return connect(self)
        asked.set()
        raise StorageError("its region is not told")

    monkeypatch.setattr(Stored, "open", open_)
    data = Path(stored.mirror) / "cache" / "train.jsonl"
    done: list[Any] = []
    run = StoredJob(stored, lambda job, report, memory: DONE)
    worker = Thread(
        target=lambda: done.append(run(MEASURING, lambda result: True, {})), daemon=True
    )
    with server.outage():
        worker.start()
        asked.wait(20)
        time.sleep(2.0)  # what it asks after its first patience finds no server, too
    worker.join(60)
    assert done == [DONE]
    assert data.read_text() == "{}"


def on_each_rank(environment: dict[str, str], stored: Stored, per_node: int) -> None:
    from sweeps.finetune.process_group import Group

    os.environ |= environment
    group = Group.current()
    os.environ["LOCAL_RANK"] = str(group.rank % per_node)

    def run(job: Any, report: Any, memory: Any) -> Any:
        folder = Path(job.folder)
        assert (folder / "events.jsonl").read_text() == "{}\n"
        (folder / str(group.rank)).touch()
        group.wait()
        assert len(list(folder.iterdir())) == 1 + per_node
        group.wait()
        return DONE

    job = trial_job(key="000-key", folder=f"{stored.mirror}/{KEY}")
    assert StoredJob(stored, run)(job, lambda result: True, {}) == DONE


@pytest.mark.parametrize("per_node", [1, 2])
def test_the_workers_of_a_node_share_a_folder(
    per_node: int,
    server: FakeStore,
    stored: Stored,
    store: ObjectStore,
    home: Path,
    tmp_path: Path,
) -> None:
    """Also where two nodes are on one machine."""
    store.put(f"{KEY}/events.jsonl", b"{}\n")
    environment = {"HOME": str(home), **server.environment}
    run_ranks(on_each_rank, 2, tmp_path / "group", environment, stored, per_node)
    assert work(home) == []
