"""A trial that no node has room for waits and says so, until a node comes; also one with a GPU
that cannot be used. The nodes and their GPUs are logical ones of this machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeps.config.resources import Resources
from sweeps.execution import worker_groups
from sweeps.execution.cluster import ray_session
from sweeps.execution.job_client import JobClient
from sweeps.execution.job_messages import Ending, Failed, Job, Measured, MeasuringJob
from sweeps.execution.tuner import scaling
from sweeps.execution.worker_groups import GroupSpec, WorkerGroups, result_of

pytestmark = pytest.mark.slow


def where(job: Job, report: object, memory: dict[str, Any]) -> Ending:
    """The node that ran the job."""
    import ray

    return Measured({}, ray.get_runtime_context().get_node_id())


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster that may grow, of a head without CPUs."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_KUBERAY_IN_USE", "1")
    monkeypatch.setattr(worker_groups, "ROOM_SECONDS", 2.0)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        yield cluster
    finally:
        cluster.shutdown()


def run_once_there_is_a_node(
    cluster: Any, resources: Resources, folder: Path, caplog: pytest.LogCaptureFixture, **node: int
) -> tuple[Ending, str, list[str]]:
    """The result of a job, the node that comes once the log has said that a trial waits, and the
    nodes that new groups would avoid."""
    import ray

    job = MeasuringJob("job", {}, 0)
    with ray_session(resources) as concurrency, caplog.at_level(logging.WARNING):
        spec = GroupSpec(where, scaling(resources), storage=str(folder / "groups"))
        with WorkerGroups(spec, concurrency) as groups:
            groups.start(1)
            client = JobClient(groups.queue, silence_seconds=240)
            client.submit(job)
            while "1 trial waits for resources" not in caplog.text:
                time.sleep(0.2)
            there = cluster.add_node(num_cpus=1, **node).node_id
            result = result_of(client, job)
            return result, there, ray.get(groups.queue.faulty_nodes.remote())


def test_a_trial_waits_for_the_first_node(
    head: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result, node, faulty = run_once_there_is_a_node(head, Resources(), tmp_path, caplog)
    assert result == Measured({}, node) and not faulty
    waits = "each needs 1 workers with 1 CPU each; the cluster has 0 CPU of which 0 free"
    assert f"1 trial waits for resources: {waits}" in caplog.text


def test_a_node_whose_gpu_cannot_be_used_is_named_and_avoided(
    head: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_groups, "MOST_FAILURES", 1)
    resources = Resources(gpus_per_worker=1)
    result, node, faulty = run_once_there_is_a_node(head, resources, tmp_path, caplog, num_gpus=1)
    assert isinstance(result, Failed)
    assert f"no CUDA GPUs are available on {node}" in result.failure
    assert faulty == [node]
