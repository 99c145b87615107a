"""A cluster that does not answer is named within seconds, before Ray waits for it in silence."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sweeps.config.load import load_config
from sweeps.config.resources import Resources
from sweeps.config.sweep_config import paths_for, resolve_paths, share_generated_files
from sweeps.execution import cluster_reachable
from sweeps.execution.cluster import ray_session
from sweeps.execution.cluster_reachable import check_reachable
from sweeps.storage.address import cluster_address
from sweeps.storage.errors import UserError

SETTINGS = b"\0\0\0\x04\0\0\0\0\0"


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that treats each connection so; its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    answer(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def grpc(connection: socket.socket) -> None:
    assert connection.recv(64).startswith(b"PRI * HTTP/2.0")
    connection.sendall(SETTINGS[:4])
    connection.sendall(SETTINGS[4:])


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_what_speaks_as_ray_does_is_taken(scheme: str) -> None:
    with listening(grpc) as address:
        check_reachable(scheme + address)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_where_nothing_listens(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = f"{scheme}127.0.0.1:{gone.getsockname()[1]}"
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        check_reachable(address, patience_seconds=1)
    assert time.monotonic() - began < 5
    assert f"RAY_ADDRESS {address}: no Ray cluster responds there (Connection refused)" in str(
        caught.value
    )


def test_what_listens_and_is_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_reachable, "TRY_SECONDS", 0.2)
    answers: dict[str, Callable[[socket.socket], None]] = {
        "something else listens there": lambda connection: connection.sendall(b"SSH-2.0-OpenSSH"),
        "timed out": lambda connection: time.sleep(1),
    }
    for words, answer in answers.items():
        with listening(answer) as address, pytest.raises(UserError, match=words):
            check_reachable(address, patience_seconds=0)
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    with server, pytest.raises(UserError, match="no Ray cluster responds"):
        check_reachable(f"127.0.0.1:{server.server_port}", patience_seconds=0)


def test_a_head_that_comes_up_late_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    started = threading.Event()

    def late() -> None:
        time.sleep(0.5)
        with socket.create_server(address) as server:
            connection, _ = server.accept()
            with connection:
                grpc(connection)
            started.set()

    threading.Thread(target=late, daemon=True).start()
    check_reachable(f"127.0.0.1:{address[1]}", patience_seconds=10)
    assert started.wait(5)


@pytest.mark.parametrize(
    "address", ["head", "10.0.0.5", "10.0.0.5:99999", "http://127.0.0.1:8265", "a b:6379", ":6379"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UserError, match="expected HOST:PORT, such as ") as caught:
        check_reachable(address)
    assert repr(address) in str(caught.value)
    assert ("ray job submit" in str(caught.value)) == address.startswith("http")


def test_joining_a_dead_cluster_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = f"127.0.0.1:{gone.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(
        "sweeps.execution.cluster.check_reachable", lambda given: check_reachable(given, 0.0)
    )
    with pytest.raises(UserError, match=f"RAY_ADDRESS {address}"), ray_session(Resources()):
        raise AssertionError("joined")


def test_local_is_this_machine_alone(sweep_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GMT_SWEEP_CACHE", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert cluster_address() == ""
    place = paths_for(resolve_paths(load_config("sweep.yaml")))
    assert not place.is_copied()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert cluster_address() == "127.0.0.1:6379"
    assert place.is_copied()


def test_only_a_run_writes_the_embedded_world_into_the_storage(
    sweep_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GMT_SWEEP_CACHE", "")
    monkeypatch.delenv("GMT_SWEEP_CACHE")  # now restored at the end, whatever sets it
    monkeypatch.setenv("HOME", str(sweep_files))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    config = load_config("sweep.yaml", ["domains.sums.data.path=mini:math/train.jsonl"])
    resolve_paths(config)  # as `validate`, `plan` and readers do
    assert not (sweep_files / "runs").exists()
    share_generated_files(config)
    shared = resolve_paths(config).domains["sums"].data.path
    assert Path(shared).is_relative_to(sweep_files / "runs" / "cache")
