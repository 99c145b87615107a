"""A group whose workers cannot reach each other leaves its place to the next."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from sweeps.config.resources import Resources
from sweeps.execution import cluster
from sweeps.execution import worker_groups as groups_module
from sweeps.execution.cluster import ray_session
from sweeps.execution.job_messages import Failed, Job, MeasuringJob
from sweeps.execution.rendezvous import talk_over_own_address
from sweeps.execution.tuner import scaling
from sweeps.execution.worker_groups import GroupSpec, WorkerGroups


def nothing(job: Job, report: object, memory: dict[str, Any]) -> None:
    return None


def test_what_a_group_reserved_is_free_when_it_did_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "_loopback", lambda: {"GLOO_SOCKET_IFNAME": "nosuch"})
    monkeypatch.setattr(groups_module, "MOST_FAILURES", 1)
    resources = Resources(workers=2)
    with ray_session(resources) as concurrency:
        spec = GroupSpec(nothing, scaling(resources), storage=str(tmp_path))
        with WorkerGroups(spec, concurrency) as groups:
            (result,) = groups.run([MeasuringJob("job", {}, 0)])
            assert isinstance(result, Failed) and "nosuch" in result.failure
            places = ray.util.placement_group_table().values()
            assert {place["state"] for place in places} == {"REMOVED"}


def test_gloo_talks_over_the_address_that_ray_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    (name, addresses), *_ = psutil.net_if_addrs().items()
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: addresses[0].address)
    talk_over_own_address()
    assert os.environ["GLOO_SOCKET_IFNAME"] == name
