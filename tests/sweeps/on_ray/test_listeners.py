"""A Ray of this machine alone, and the workers on it, listen to this machine alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeps.config.resources import Resources
from sweeps.execution.cluster import ray_session
from sweeps.execution.job_client import JobClient
from sweeps.execution.job_messages import Job, Measured, MeasuringJob
from sweeps.execution.tuner import scaling
from sweeps.execution.worker_groups import GroupSpec, WorkerGroups
from sweeps.finetune.reporter import Check

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def listeners() -> set[tuple[Any, ...]]:
    """Name, address and port of whatever this process or one that it started listens to."""
    ours = psutil.Process()
    return {
        (process.name(), *connection.laddr)
        for process in (ours, *ours.children(recursive=True))
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }


def sum_of_ranks(job: Job, report: Callable[[Check], bool], memory: dict[str, Any]) -> Measured:
    """What both workers together make; then rank 0 waits until the driver has looked around."""
    import torch
    import torch.distributed as dist

    total = torch.tensor([dist.get_rank() + 1])
    dist.all_reduce(total)
    report(Check(1, 1, float(total), {"worker": os.getpid()}))
    return Measured({}, "here")


def test_no_process_of_a_local_ray_listens_to_the_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    resources = Resources(workers=2)
    with ray_session(resources) as concurrency:
        assert concurrency == 1
        spec = GroupSpec(sum_of_ranks, scaling(resources), storage=str(tmp_path))
        with WorkerGroups(spec, concurrency) as groups:
            groups.start(concurrency)
            client = JobClient(groups.queue, silence_seconds=300)
            client.submit(MeasuringJob("sum", {}, 0))
            check = client.next().value
            assert isinstance(check, Check) and check.score == 3
            assert psutil.pid_exists(int(check.metrics["worker"]))
            found = listeners()
            assert client.last() == Measured({}, "here")
    assert found
    assert not {each for each in found if each[1] not in LOOPBACK}
