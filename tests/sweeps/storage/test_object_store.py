"""Every object store keeps files alike: on a real S3 server, and on a folder as its twin."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from sweeps.storage.address import Address
from sweeps.storage.object_store import ObjectStore, StorageError
from tests.sweeps.object_stores import FakeStore
from tests.sweeps.storage.conftest import place_of_its_own


@pytest.fixture(params=["s3", "gs", "folder"])
def any_store(
    request: pytest.FixtureRequest, servers: dict[str, FakeStore], tmp_path: Path
) -> ObjectStore:
    if request.param in servers:
        place = servers[request.param].address(place_of_its_own(request))
        return ObjectStore.open(Address.parse(place))
    from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

    (tmp_path / "root").mkdir()
    files = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
    return ObjectStore(_Folders(files, tmp_path), "root", "a folder")


class _Folders:
    """A folder as an object store: writing a file makes its folders."""

    def __init__(self, files: object, root: Path) -> None:
        self._files, self._root = files, root

    def open_output_stream(self, path: str) -> object:
        (self._root / path).parent.mkdir(parents=True, exist_ok=True)
        return self._files.open_output_stream(path)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        return getattr(self._files, name)


def test_what_is_put_is_read_listed_and_replaced(any_store: ObjectStore) -> None:
    assert any_store.files("a") == {}
    any_store.put("a/one", b"1")
    any_store.put("a/b/two", b"22")
    any_store.put("a/b/two", b"2222")
    any_store.put("ab", b"")
    assert {name: entry.size for name, entry in any_store.files("a").items()} == {
        "a/one": 1,
        "a/b/two": 4,
    }
    assert set(any_store.files()) == {"a/one", "a/b/two", "ab"}
    assert any_store.read("a/b/two") == b"2222"
    assert any_store.read("a/b/two", 3) == b"2"
    assert any_store.read("a/b/two", 4) == b"" == any_store.read("a/b/two", 9)
    entry = any_store.stat("a/one")
    assert entry is not None
    assert abs(entry.modified / 1e9 - time.time()) < 60
    assert any_store.stat("a/none") is None is any_store.stat("a/b")


def test_files_go_up_and_down_whole(any_store: ObjectStore, tmp_path: Path) -> None:
    data = bytes(range(256)) * (40 << 10)  # 10 MiB: in several parts
    (tmp_path / "source").write_bytes(data)
    any_store.upload(tmp_path / "source", "deep/down/file")
    any_store.download("deep/down/file", tmp_path / "new" / "target")
    assert (tmp_path / "new" / "target").read_bytes() == data
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["target"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_a_file_is_whole(
    number: int, any_store: ObjectStore, tmp_path: Path
) -> None:
    """Closing the stream of a half file would publish the half."""
    os.mkfifo(tmp_path / "source")
    half = bytes(9 << 20)

    def write() -> None:
        with (tmp_path / "source").open("wb") as source:
            source.write(half)
            os.kill(os.getpid(), number)
            time.sleep(0.2)
            source.write(half)

    writer = Thread(target=write)
    writer.start()
    with pytest.raises(KeyboardInterrupt):
        any_store.upload(tmp_path / "source", "file")
    writer.join()
    assert len(any_store.read("file")) == 2 * len(half)


class BadDisk:
    """A file of which not all can be read."""

    def __init__(self, good: int) -> None:
        self._good = good

    def open(self, mode: str) -> Any:
        file = BytesIO(bytes(self._good))

        class Failing(BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                if block := file.read(size):
                    return block
                raise OSError(5, "Input/output error")

        return Failing()


def test_a_disk_that_fails_publishes_no_cut_file(any_store: ObjectStore) -> None:
    """Of a small file the one before stays."""
    for good, left in ((0, {"file"}), (9 << 20, set())):
        any_store.put("file", b"before")
        with pytest.raises(OSError, match="Input/output error"):
            any_store.upload(BadDisk(good), "file")  # type: ignore[arg-type]
        assert set(any_store.files()) == left
        assert not left or any_store.read("file") == b"before"


def test_a_store_that_fails_in_the_middle_keeps_what_was_there(
    server: FakeStore, store: ObjectStore, tmp_path: Path
) -> None:
    store.put("file", b"before")
    os.mkfifo(tmp_path / "source")

    def write() -> None:
        with (tmp_path / "source").open("wb") as source:
            source.write(bytes(20 << 20))
            with server.outage(), suppress(BrokenPipeError):
                source.write(bytes(20 << 20))
                source.close()
                over.wait(60)

    over = Event()
    writer = Thread(target=write)
    writer.start()
    with pytest.raises(StorageError):
        store.upload(tmp_path / "source", "file")
    over.set()
    writer.join()
    assert store.read("file") == b"before"


def test_what_is_not_there_is_told_by_its_own_error(
    any_store: ObjectStore, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        any_store.read("none")
    (tmp_path / "here").write_text("before")
    with pytest.raises(FileNotFoundError):
        any_store.download("none", tmp_path / "here")
    assert (tmp_path / "here").read_text() == "before"


def test_what_is_removed_is_gone_and_nothing_else(any_store: ObjectStore) -> None:
    for name in ("a/one", "a/b/two", "a/b/c/three", "ab"):
        any_store.put(name, b"1")
    any_store.remove("a/one")
    any_store.remove("a/one")
    any_store.remove_tree("a/b")
    any_store.remove_tree("a/b")
    assert set(any_store.files()) == {"ab"}


def test_a_good_store_passes_its_check_and_keeps_nothing_of_it(any_store: ObjectStore) -> None:
    any_store.check()
    assert any_store.files() == {}


def test_a_missing_bucket_is_told_within_seconds(server: FakeStore) -> None:
    began = time.monotonic()
    with pytest.raises(StorageError, match="no such bucket"):
        ObjectStore.open(Address.parse(server.address("nobodys/a"))).check()
    assert time.monotonic() - began < 20


def test_a_server_that_is_not_there_is_told_within_seconds(
    server: FakeStore, bucket: Address
) -> None:
    began = time.monotonic()
    with server.outage(), pytest.raises(StorageError, match="it does not respond"):
        ObjectStore.open(bucket).check()
    assert time.monotonic() - began < 30
    ObjectStore.open(bucket).check()


AMAZON = "When uploading key 'x': AWS Error ACCESS_DENIED during PutObject"
GOOGLE = (
    "google::cloud::Status(UNAVAILABLE: Retry policy exhausted, with a last message of Could not "
    "create a OAuth2 access token to authenticate the request. " + "Learn more. " * 40
)


@pytest.mark.parametrize("error", [AMAZON, GOOGLE])
def test_refused_credentials_are_told_with_what_is_needed(error: str) -> None:
    class Refusing:
        def open_output_stream(self, path: str) -> object:
            raise OSError(error)

    with pytest.raises(StorageError, match="a role for the machine, or AWS_ACCESS_KEY_ID") as told:
        ObjectStore(Refusing(), "bucket", "s3://bucket").put("x", b"")
    assert len(str(told.value)) < 600


def test_the_endpoint_may_come_from_the_environment(
    servers: dict[str, FakeStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{servers['s3'].port}")
    ObjectStore.open(Address.parse("s3://sweeps/by-environment")).check()
