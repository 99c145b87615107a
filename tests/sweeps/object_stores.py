"""Object stores on real servers on the loopback interface, with a wire that can be cut."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import final

from sweeps.execution.cluster import free_port
from tests.sweeps import wire

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
}


class FakeStore(ABC):
    """One server, what it holds is in its memory; and a wire to it, which can be cut."""

    environment: Mapping[str, str]

    def __init__(self) -> None:
        self.port, self._server = free_port(), free_port()
        self._process = subprocess.Popen(
            self._command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._wire = subprocess.Popen(
            [sys.executable, wire.__file__, str(self.port), str(self._server)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._say("mend")  # answered when it listens
        deadline = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < deadline, "the object store does not start"
            time.sleep(0.1)

    @abstractmethod
    def bucket(self, name: str) -> None:
        """Make a bucket."""

    @abstractmethod
    def address(self, place: str) -> str:
        """Of a place, which is BUCKET/PREFIX, through the wire."""

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    def _ask(self, path: str, method: str = "GET", data: bytes | None = None) -> None:
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self._server}/{path}",
            method=method,
            data=data,
            headers={"Content-Type": "application/json"} if data else {},
        )
        urllib.request.urlopen(asked, timeout=10).close()

    def _is_there(self, path: str) -> bool:
        try:
            self._ask(path)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """End it, and all it holds."""
        for process in (self._wire, self._process):
            process.kill()
            process.communicate()  # closes its pipes, too

    @contextmanager
    def outage(self) -> Iterator[None]:
        """It answers nobody while the block runs."""
        self._say("cut")
        try:
            yield
        finally:
            self._say("mend")

    def _say(self, word: str) -> None:
        assert self._wire.stdin is not None and self._wire.stdout is not None
        self._wire.stdin.write(f"{word}\n")
        self._wire.stdin.flush()
        assert self._wire.stdout.readline().strip() == word


@final
class FakeS3(FakeStore):
    """moto's S3."""

    environment = ENVIRONMENT

    def bucket(self, name: str) -> None:
        self._ask(name, "PUT")

    def address(self, place: str) -> str:
        return f"s3://{place}?endpoint_override=127.0.0.1:{self.port}&scheme=http"

    def _command(self) -> list[str]:
        program = str(Path(sys.executable).with_name("moto_server"))
        return [program, "-H", "127.0.0.1", "-p", str(self._server)]

    def _answers(self) -> bool:
        return self._is_there("moto-api/")


@final
class FakeGoogle(FakeStore):
    """A stub of Google Cloud Storage; it asks for no credentials, its clients do."""

    def __init__(self, folder: Path) -> None:
        """``folder``: for the key of an account that is nobody's."""
        key = folder / "account.json"
        key.write_text(json.dumps(_account()))
        self.environment = {"GOOGLE_APPLICATION_CREDENTIALS": str(key)}
        super().__init__()

    def bucket(self, name: str) -> None:
        self._ask("storage/v1/b", "POST", json.dumps({"name": name}).encode())

    def address(self, place: str) -> str:
        return f"gs://{place}?endpoint_override=127.0.0.1:{self.port}&scheme=http"

    def _command(self) -> list[str]:
        module = [sys.executable, "-m", "gcp_storage_emulator", "start", "--in-memory"]
        return [*module, "--host", "127.0.0.1", "--port", str(self._server)]

    def _answers(self) -> bool:
        return self._is_there("")


def _account() -> dict[str, str]:
    """A service account's key file, which Google's clients sign by without asking anybody."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return {
        "type": "service_account",
        "project_id": "nothing",
        "private_key_id": "none",
        "private_key": key.decode(),
        "client_email": "nobody@nothing.invalid",
        "client_id": "0",
        "token_uri": "http://127.0.0.1:9/token",
    }
