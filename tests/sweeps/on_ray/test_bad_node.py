"""A trial that meets a fault of a node's hardware is tried again on another node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeps.config.resources import Resources
from sweeps.execution.cluster import ray_session
from sweeps.execution.job_client import JobClient
from sweeps.execution.job_messages import Ending, Job, Measured, MeasuringJob
from sweeps.execution.tuner import scaling
from sweeps.execution.worker_groups import GroupSpec, WorkerGroups


class BadNode:
    """Fails on the first node that runs it; tells which node ended the job."""

    def __init__(self, record: Path) -> None:
        self._record = record

    def __call__(self, job: Job, report: object, memory: dict[str, Any]) -> Ending:
        import ray

        node = ray.get_runtime_context().get_node_id()
        if not self._record.exists():
            self._record.write_text(node)
        if self._record.read_text() == node:
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
        return Measured({}, node)


@pytest.mark.slow
def test_a_node_with_a_hardware_fault_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scale import ray_cluster  # here, because workers import this file without benchmarks

    bad, resources = tmp_path / "bad", Resources()
    with ray_cluster(2) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        with ray_session(resources) as concurrency:
            spec = GroupSpec(BadNode(bad), scaling(resources), storage=str(tmp_path / "groups"))
            with WorkerGroups(spec, concurrency) as groups:
                groups.start(1)
                client = JobClient(groups.queue, silence_seconds=120)
                client.submit(MeasuringJob("job", {}, 0))
                result = client.next()
    (cause,) = result.retries
    assert cause.startswith("rank 0 on ") and cause.endswith("uncorrectable ECC error encountered")
    assert isinstance(result.value, Measured)
    assert result.value.place != bad.read_text()
