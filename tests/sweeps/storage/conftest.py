"""An object store on a real server, and on a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.storage import lease, object_store
from sweeps.storage.address import Address
from sweeps.storage.object_store import ObjectStore
from sweeps.storage.study_paths import StudyPaths
from tests.sweeps.object_stores import FakeGoogle, FakeS3, FakeStore


@pytest.fixture(scope="package")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, FakeStore]]:
    found = {"s3": FakeS3(), "gs": FakeGoogle(tmp_path_factory.mktemp("account"))}
    try:
        with pytest.MonkeyPatch.context() as patch:
            for server in found.values():
                for name, value in server.environment.items():
                    patch.setenv(name, value)
                server.bucket("sweeps")
            yield found
    finally:
        for server in found.values():
            server.close()


@pytest.fixture(params=["s3", "gs"])
def server(
    servers: dict[str, FakeStore],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> FakeStore:
    monkeypatch.setattr(object_store, "REQUEST_SECONDS", 6.0)  # how long an outage is waited for
    return servers[request.param]


@pytest.fixture
def bucket(server: FakeStore, request: pytest.FixtureRequest) -> Address:
    """A prefix of its own for each test."""
    return Address.parse(server.address(place_of_its_own(request)))


@pytest.fixture
def store(bucket: Address) -> ObjectStore:
    return ObjectStore.open(bucket)


def place_of_its_own(request: pytest.FixtureRequest) -> str:
    """In a bucket, for one test."""
    return f"sweeps/{request.node.name.replace('[', '-').rstrip(']')}"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, where a machine's mirrors lie."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path / "home"


@pytest.fixture
def place(bucket: Address, home: Path, monkeypatch: pytest.MonkeyPatch) -> StudyPaths:
    """A sweep in the bucket, whose driver lets nobody wait."""
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    return StudyPaths(bucket.mirror() / "sweep", bucket)
