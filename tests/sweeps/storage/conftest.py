"""An object store on a real server, and on a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.folder import hold
from sweeps.folder.place import StudyPlace
from sweeps.storage.address import Address
from sweeps.storage.object_store import ObjectStore
from tests.sweeps.s3 import ENVIRONMENT, FakeS3


@pytest.fixture(scope="package")
def s3() -> Iterator[FakeS3]:
    server = FakeS3()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in ENVIRONMENT.items():
                patch.setenv(name, value)
            server.bucket("sweeps")
            yield server
    finally:
        server.close()


@pytest.fixture
def bucket(s3: FakeS3, request: pytest.FixtureRequest) -> Address:
    """A prefix of its own for each test."""
    return Address.parse(s3.address(f"sweeps/{request.node.name.replace('[', '-').rstrip(']')}"))


@pytest.fixture
def store(bucket: Address) -> ObjectStore:
    return ObjectStore.open(bucket)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, where a machine's mirrors lie."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path / "home"


@pytest.fixture
def place(bucket: Address, home: Path, monkeypatch: pytest.MonkeyPatch) -> StudyPlace:
    """A sweep in the bucket, whose driver lets nobody wait."""
    monkeypatch.setattr(hold, "PUSH_SECONDS", 0.1)
    monkeypatch.setattr(hold, "BEAT_SECONDS", 0.1)
    return StudyPlace(bucket.mirror() / "sweep", bucket)
