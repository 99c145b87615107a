"""moto's S3: a real server on the loopback interface, with a wire that can be cut."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sweeps.workers.cluster import free_port

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
}


class FakeS3:
    """One server, what it holds is in its memory; and a wire to it, which can be cut."""

    def __init__(self) -> None:
        self.port, self._server = free_port(), free_port()
        self._is_cut = threading.Event()
        program = str(Path(sys.executable).with_name("moto_server"))
        self._process = subprocess.Popen(
            [program, "-H", "127.0.0.1", "-p", str(self._server)],
            env={**os.environ, **ENVIRONMENT},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._listen, daemon=True).start()
        deadline = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < deadline, "moto does not start"
            time.sleep(0.1)

    def bucket(self, name: str) -> None:
        """Make a bucket."""
        place = f"http://127.0.0.1:{self._server}/{name}"
        urllib.request.urlopen(urllib.request.Request(place, method="PUT"), timeout=10).close()

    def address(self, place: str) -> str:
        """Of a place, which is BUCKET/PREFIX, through the wire."""
        return f"s3://{place}?endpoint_override=127.0.0.1:{self.port}&scheme=http"

    def close(self) -> None:
        """End it, and all it holds."""
        self._process.kill()
        self._process.wait()
        self._listener.close()

    @contextmanager
    def outage(self) -> Iterator[None]:
        """It answers nobody while the block runs."""
        self._is_cut.set()
        try:
            yield
        finally:
            self._is_cut.clear()

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self._server}/moto-api/", timeout=5).close()
        except OSError:
            return False
        return True

    def _listen(self) -> None:
        with suppress(OSError):  # closed at the end
            while True:
                caller, _ = self._listener.accept()
                if self._is_cut.is_set():
                    caller.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._server))
                for one, other in ((caller, server), (server, caller)):
                    threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while (data := one.recv(1 << 16)) and not self._is_cut.is_set():
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        one.close()
