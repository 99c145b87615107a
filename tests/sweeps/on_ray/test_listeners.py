"""A Ray of this machine alone listens to this machine alone."""

from __future__ import annotations

import psutil
import pytest

from sweeps.config import Resources
from sweeps.workers.cluster import ray_session


def test_no_process_of_a_local_ray_listens_to_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ray_session(Resources()) as concurrency:
        assert concurrency == 1
        ours = psutil.Process()
        found = {
            (process.name(), *connection.laddr)
            for process in (ours, *ours.children(recursive=True))
            for connection in process.net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN
        }
    assert found
    strangers = {each for each in found if each[1] not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")}
    assert not strangers
