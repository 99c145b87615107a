"""What the store has of a trial at every moment is enough to go on from, and of one try alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from sweeps.execution import trial_upload
from sweeps.execution.trial_upload import TrialCopy, background_upload, events_pause
from sweeps.finetune import checkpoint
from sweeps.finetune.checkpoint import Checkpoint
from sweeps.storage.object_store import ObjectStore, StorageError, SupersededError
from sweeps.storage.outages import retry_storage
from tests.sweeps.object_stores import FakeStore

PLACE = "sweep/math/trials/000-key"


class Watched:
    """A store that notes what is written and removed, and may fail at a file. ``meanwhile``: what
    happens while the next file is on its way."""

    def __init__(self, store: ObjectStore) -> None:
        self._store, self.done, self.fails_at = store, list[str](), ""
        self.meanwhile: Callable[[], object] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _note(self, what: str, path: str) -> None:
        if self.fails_at and path.endswith(self.fails_at):
            raise StorageError("no answer")
        self.done.append(f"{what} {path.removeprefix(PLACE + '/')}")

    def _pass_time(self) -> None:
        happens, self.meanwhile = self.meanwhile, None
        if happens is not None:
            happens()

    def put(self, path: str, data: bytes) -> None:
        self._note("put", path)
        self._store.put(path, data)

    def upload(self, file: Path, path: str) -> None:
        self._note("put", path)
        self._store.upload(file, path)
        self._pass_time()

    def download(self, path: str, file: Path) -> None:
        self._store.download(path, file)
        self._pass_time()

    def remove_tree(self, path: str) -> None:
        self._note("remove", path)
        self._store.remove_tree(path)


@pytest.fixture
def watched(store: ObjectStore) -> Watched:
    return Watched(store)


def begin(store: Any, folder: Path, word: str) -> TrialCopy:
    """A try of the trial, as a worker begins it."""
    trial = TrialCopy(store, PLACE, folder, word)
    folder.mkdir()
    trial.claim()
    trial.fetch()
    return trial


def save(folder: Path, step: int) -> None:
    checkpoint.save(folder, "run", Checkpoint(step, None, {}, {}, {}, 0.0, 0.0))


def save_sharded(folder: Path, step: int, keep: int = 1) -> None:
    """As `save`, with shards beside the state, whole at once."""
    partial = checkpoint.partial_folder(folder, step)
    checkpoint.begin(partial)
    for rank in (0, 1):
        (partial / checkpoint.SHARDS).mkdir(exist_ok=True)
        (partial / checkpoint.SHARDS / f"rank{rank}").write_text("part")
    checkpoint.finish(partial, "run", Checkpoint(step, None, {}, {}, {}, 0.0, 0.0), keep)


def write_events(folder: Path, text: str) -> None:
    with (folder / "events.jsonl").open("a") as file:
        file.write(text)


def there(store: ObjectStore) -> set[str]:
    return {name.removeprefix(f"{PLACE}/") for name in store.files(PLACE)}


def test_a_try_goes_on_where_the_one_before_it_was_lost(
    store: ObjectStore, tmp_path: Path
) -> None:
    first = begin(store, tmp_path / "one", "first")
    write_events(tmp_path / "one", '{"step": 1}\n{"st')
    save(tmp_path / "one", 1)
    first.push()
    write_events(tmp_path / "one", 'ep": 2}\n')  # never sent
    begin(store, tmp_path / "two", "second")
    assert (tmp_path / "two" / "events.jsonl").read_text() == '{"step": 1}\n'
    found = checkpoint.load(tmp_path / "two", "run")
    assert found is not None
    assert found.step == 1


@pytest.mark.parametrize("lost", ["state.pt", "shards/rank0"])
def test_a_checkpoint_counts_only_when_all_of_it_is_there(
    lost: str, watched: Watched, store: ObjectStore, tmp_path: Path
) -> None:
    trial = begin(watched, tmp_path / "one", "first")
    save(tmp_path / "one", 1)
    trial.push()
    save(tmp_path / "one", 2)
    shards = checkpoint.saved(tmp_path / "one")[-1] / "shards"
    shards.mkdir()
    (shards / "rank0").write_text("part")
    watched.fails_at = lost
    with pytest.raises(StorageError):
        trial.push()
    assert "checkpoint/step-0000000001/state.pt" in there(store)  # not given up for half a one
    begin(store, tmp_path / "two", "second")
    assert [place.name for place in checkpoint.saved(tmp_path / "two")] == ["step-0000000001"]


@pytest.mark.parametrize("links", [True, False])
def test_a_checkpoint_that_training_replaces_on_its_way_arrives_whole(
    links: bool,
    watched: Watched,
    store: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else none would ever arrive where a checkpoint takes longer than the time to the next."""
    if not links:
        monkeypatch.setattr(os, "link", refused)
    trial = begin(watched, tmp_path / "one", "first")
    save_sharded(tmp_path / "one", 1)
    trial.push()
    save_sharded(tmp_path / "one", 2)
    watched.meanwhile = lambda: save_sharded(tmp_path / "one", 3)
    trial.push()
    parts = ("shards/rank0", "shards/rank1", "state.pt")
    assert there(store) == {"claim", *(f"checkpoint/step-0000000002/{part}" for part in parts)}
    trial.push()
    assert there(store) == {"claim", *(f"checkpoint/step-0000000003/{part}" for part in parts)}
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_events_do_not_wait_for_a_checkpoint_on_its_way(
    watched: Watched, store: ObjectStore, tmp_path: Path
) -> None:
    trial = begin(watched, tmp_path / "one", "first")
    save(tmp_path / "one", 1)

    def check() -> None:
        write_events(tmp_path / "one", "{}\n")
        training = Thread(target=trial.push_events, daemon=True)
        training.start()
        training.join(20)
        assert "events.jsonl" in there(store)

    watched.meanwhile = check
    trial.push()


def refused(*names: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("over", [False, True])
def test_a_checkpoint_of_which_training_removes_a_part_first_is_let_go(
    over: bool, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "one"
    trial = begin(store, folder, "first")
    save_sharded(folder, 1)
    trial.push()
    save_sharded(folder, 2)

    def late(latest: Path, *more: Any, **named: Any) -> Any:
        """Training goes on before the files are looked at, and has not removed them all yet."""
        monkeypatch.undo()
        if over:
            (folder / "result.json").write_text("{}")
        else:
            save_sharded(folder, 3, keep=2)
        (latest / checkpoint.SHARDS / "rank0").unlink()
        return shutil.copytree(latest, *more, **named)

    monkeypatch.setattr(shutil, "copytree", late)
    trial.push()
    parts = ("shards/rank0", "shards/rank1", "state.pt")
    assert there(store) == {"claim", *(f"checkpoint/step-0000000001/{part}" for part in parts)}


def test_what_arrived_of_a_checkpoint_goes_with_it(
    watched: Watched, store: ObjectStore, tmp_path: Path
) -> None:
    trial = begin(watched, tmp_path / "one", "first")
    save(tmp_path / "one", 1)
    (checkpoint.saved(tmp_path / "one")[-1] / "part").touch()
    watched.fails_at = "state.pt"
    with pytest.raises(StorageError):
        trial.push()
    watched.fails_at = ""
    save(tmp_path / "one", 2)
    trial.push()
    assert there(store) == {"claim", "checkpoint/step-0000000002/state.pt"}


def test_what_a_try_left_half_is_replaced_by_the_next(
    watched: Watched, store: ObjectStore, tmp_path: Path
) -> None:
    store.put(f"{PLACE}/checkpoint/step-0000000002/shards/rank9", b"half")
    trial = begin(watched, tmp_path / "one", "first")
    assert not checkpoint.saved(tmp_path / "one")
    save(tmp_path / "one", 2)
    trial.push()
    assert "put checkpoint/step-0000000002/state.pt" in watched.done
    save(tmp_path / "one", 3)
    trial.push()
    assert there(store) == {"claim", "checkpoint/step-0000000003/state.pt"}


def test_the_next_checkpoint_is_whole_before_the_last_one_goes(
    watched: Watched, tmp_path: Path
) -> None:
    trial = begin(watched, tmp_path / "one", "first")
    for step in (1, 2):
        save(tmp_path / "one", step)
        write_events(tmp_path / "one", "{}\n")
        trial.push()
        trial.push()  # nothing is new
    assert watched.done == [
        "put claim",
        "put events.jsonl",
        "put checkpoint/step-0000000001/state.pt",
        "put events.jsonl",
        "put checkpoint/step-0000000002/state.pt",
        "remove checkpoint/step-0000000001",
    ]


def end(folder: Path) -> None:
    """What a run leaves: its model, its result, and no checkpoint."""
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_text("w")
    (folder / "result.json").write_text("{}")
    checkpoint.discard(folder)


def test_the_result_comes_after_its_model_and_before_the_checkpoint_goes(
    watched: Watched, store: ObjectStore, tmp_path: Path
) -> None:
    store.put(f"{PLACE}/model/of-a-killed-try", b"half")
    trial = begin(watched, tmp_path / "one", "first")
    save(tmp_path / "one", 1)
    trial.push()
    end(tmp_path / "one")
    trial.push()
    trial.finish()
    assert watched.done[2:] == [
        "remove model",
        "put model/weights",
        "put result.json",
        "remove checkpoint",
    ]
    assert there(store) == {"claim", "model/weights", "result.json"}


def test_a_finished_trial_is_answered_without_its_model(
    watched: Watched, store: ObjectStore, tmp_path: Path
) -> None:
    trial = begin(store, tmp_path / "one", "first")
    end(tmp_path / "one")
    trial.finish()
    again = begin(watched, tmp_path / "two", "second")
    assert {file.name for file in (tmp_path / "two").iterdir()} == {"result.json"}
    again.finish()
    assert watched.done == ["put claim"]
    assert "model/weights" in there(store)


def test_a_try_that_was_replaced_writes_no_more(store: ObjectStore, tmp_path: Path) -> None:
    zombie = begin(store, tmp_path / "one", "first")
    write_events(tmp_path / "one", "{}\n")
    begin(store, tmp_path / "two", "second")
    with pytest.raises(SupersededError):
        zombie.push()
    with pytest.raises(SupersededError):
        zombie.finish()
    assert there(store) == {"claim"}


def with_the_second_to_send(store: Any, folder: Path) -> TrialCopy:
    """A try of which one checkpoint is there, and the next one is still to go."""
    trial = begin(store, folder, "first")
    save_sharded(folder, 1)
    trial.push()
    save_sharded(folder, 2)
    return trial


def test_a_try_that_is_replaced_while_it_uploads_removes_nothing(
    watched: Watched, store: ObjectStore, tmp_path: Path
) -> None:
    zombie = with_the_second_to_send(watched, tmp_path / "one")
    watched.meanwhile = lambda: begin(store, tmp_path / "two", "second")
    with pytest.raises(SupersededError):
        zombie.push()
    assert f"{whole(1)}/state.pt" in there(store)


def test_what_a_replaced_try_removes_meanwhile_is_not_missed(
    watched: Watched, store: ObjectStore, tmp_path: Path
) -> None:
    with_the_second_to_send(store, tmp_path / "one")

    def replace() -> None:
        """It had looked at the claim before that was written anew."""
        for file in sorted(checkpoint.saved(tmp_path / "one")[-1].rglob("*")):
            if file.is_file():
                store.upload(file, f"{PLACE}/{file.relative_to(tmp_path / 'one').as_posix()}")
        store.remove_tree(f"{PLACE}/{whole(1)}")

    trial = TrialCopy(watched, PLACE, tmp_path / "two", "second")  # type: ignore[arg-type]
    trial.claim()
    watched.meanwhile = replace
    retry_storage(trial.fetch, 10)
    assert [place.name for place in checkpoint.saved(tmp_path / "two")] == ["step-0000000002"]


def whole(step: int) -> str:
    return f"checkpoint/step-{step:010d}"


def test_a_checkpoint_that_a_killed_try_left_beside_its_result_goes(
    watched: Watched, store: ObjectStore, tmp_path: Path
) -> None:
    trial = begin(watched, tmp_path / "one", "first")
    save(tmp_path / "one", 1)
    trial.push()
    end(tmp_path / "one")
    watched.fails_at = "checkpoint"
    with pytest.raises(StorageError):
        trial.finish()
    assert f"{whole(1)}/state.pt" in there(store)
    with pytest.raises(StorageError):
        trial.finish()  # as who waits for the store does
    assert watched.done.count("put model/weights") == 1
    begin(store, tmp_path / "two", "second").finish()
    assert there(store) == {"claim", "model/weights", "result.json"}


def test_all_is_delivered_while_the_block_runs_and_at_its_end(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_upload, "BEAT_SECONDS", 0.05)
    trial = begin(store, tmp_path / "one", "first")
    with background_upload(trial) as events_now:
        write_events(tmp_path / "one", "{}\n")
        events_now()
        assert store.read(f"{PLACE}/events.jsonl") == b"{}\n"
        save(tmp_path / "one", 1)
        retry_storage(lambda: wait_for(store, "checkpoint/step-0000000001/state.pt"), 10)
        end(tmp_path / "one")
    assert there(store) == {"claim", "events.jsonl", "model/weights", "result.json"}


def wait_for(store: ObjectStore, name: str) -> None:
    if name not in there(store):
        raise StorageError(f"{name} is not there yet")


def test_long_events_are_sent_more_rarely(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them go each time: what a run of many hours sends grows with its time all the same,
    not with its square."""
    trial = begin(watched, tmp_path / "one", "first")
    monkeypatch.setattr(trial_upload, "EVENTS_BYTES_PER_SECOND", 1)
    write_events(tmp_path / "one", "{}\n")
    trial.push()
    write_events(tmp_path / "one", "{}\n")
    trial.push()
    assert watched.done == ["put claim", "put events.jsonl"]
    trial.push_events()
    assert watched.done[2:] == ["put events.jsonl"]
    monkeypatch.undo()
    sent, clock = 0, 0.0
    while clock < 36_000:
        events = int(300 * clock)  # of an update a second
        sent += events
        clock += max(trial_upload.BEAT_SECONDS, events_pause(events))
    assert sent <= 36_000 * trial_upload.EVENTS_BYTES_PER_SECOND


def test_an_outage_delays_a_delivery_and_fails_nothing(
    server: FakeStore, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_upload, "BEAT_SECONDS", 0.05)
    trial = begin(store, tmp_path / "one", "first")
    with background_upload(trial) as events_now:
        with server.outage():
            write_events(tmp_path / "one", "{}\n")
            events_now()
            save(tmp_path / "one", 1)
        end(tmp_path / "one")
    assert there(store) == {"claim", "events.jsonl", "model/weights", "result.json"}


def test_an_outage_without_end_fails_as_infrastructure(
    server: FakeStore, store: ObjectStore, tmp_path: Path
) -> None:
    from sweeps.config.failure_kinds import kind_of

    trial = begin(store, tmp_path / "one", "first")
    end(tmp_path / "one")
    with server.outage(), pytest.raises(StorageError) as raised:
        retry_storage(trial.finish, seconds=0.5)
    assert kind_of(raised.value) == "infrastructure"


def test_an_error_of_the_trial_is_told_and_its_events_are_there(
    store: ObjectStore, tmp_path: Path
) -> None:
    trial = begin(store, tmp_path / "one", "first")
    with pytest.raises(ZeroDivisionError), background_upload(trial):
        write_events(tmp_path / "one", "{}\n")
        raise ZeroDivisionError
    assert store.read(f"{PLACE}/events.jsonl") == b"{}\n"
