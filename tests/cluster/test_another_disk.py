"""A cluster of two hosts, the second of which has another disk where the driver has the storage.

The head drives and has no CPU, as on a cluster of `ray up`, so that every trial lands on the
worker; see `tests.cluster.hosts`.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
import yaml

from tests.cluster.hosts import Host, Hosts, missing_programs
from tests.cluster.local_cluster import ROOT
from tests.sweeps.on_ray.mini_sweeps import tree

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
if sys.platform != "linux" or os.geteuid() != 0 or missing_programs():
    pytest.skip(
        f"needs Linux, root and {', '.join(missing_programs()) or 'its programs'}",
        allow_module_level=True,
    )

TO_FIX_IT = "To fix it, mount one folder on every node"


@dataclass(frozen=True)
class TwoHosts:
    """A head that runs Ray, and a worker that may join it."""

    head: Host
    worker: Host
    shared: Path

    @property
    def sweep(self) -> Path:
        """What the driver writes to."""
        return self.shared / "runs" / "small"

    @property
    def other(self) -> Path:
        """The disk that the worker has in place of the shared folder, where it is given one."""
        return self.worker.home / "other"

    def give_worker_another_disk(self) -> None:
        self.worker.run(f"mkdir other; mount --bind other {self.shared}")

    def join(self) -> None:
        """The worker becomes a node of one CPU."""
        _start_ray(self.worker, f"--address={self.head.address}:6379 --num-cpus=1")

    def start_driver(self) -> Popen[str]:
        given = (
            f"RAY_ADDRESS={self.head.address}:6379",
            f"PYTHONPATH={ROOT}",
            "RAY_USAGE_STATS_KUBERAY_IN_USE=1",  # more nodes may come
        )
        line = f"{' '.join(given)} exec python -m sweeps run {self.shared}/sweep.yaml"
        return Popen(self.head.command(line), stdout=PIPE, stderr=PIPE, text=True)

    def wait_for_probe(self, driver: Popen[str]) -> None:
        """Until the driver has asked the nodes that there are, and left its word for others."""
        end = time.monotonic() + 240
        while not list(self.sweep.glob(".probe-*")):
            assert driver.poll() is None, driver.communicate()
            assert time.monotonic() < end
            time.sleep(0.2)

    def check_nothing_was_written(self) -> None:
        """By a trial, on either disk."""
        assert list(self.other.iterdir()) == []
        assert not list(self.sweep.rglob("events.jsonl"))
        assert not list(self.sweep.rglob("checkpoints"))


def _start_ray(host: Host, arguments: str) -> None:
    start = f"PYTHONPATH={ROOT} ray start --object-store-memory=100000000 {arguments}"
    host.run(f"{start} || (ray stop --force; {start})", timeout=240)


@pytest.fixture
def cluster() -> Iterator[TwoHosts]:
    with Hosts("head", "worker", kept=[ROOT]) as hosts:
        found = TwoHosts(hosts["head"], hosts["worker"], hosts.shared)
        (found.shared / "sweep.yaml").write_text(yaml.safe_dump(tree(found.shared / "runs")))
        _start_ray(found.head, "--head --num-cpus=0 --port=6379 --dashboard-host=127.0.0.1")
        yield found


def test_a_worker_that_joins_later_is_refused_at_its_first_trial(cluster: TwoHosts) -> None:
    """The sweep begins while there is no worker at all."""
    cluster.give_worker_another_disk()
    driver = cluster.start_driver()
    cluster.wait_for_probe(driver)
    cluster.join()
    _, said = driver.communicate(timeout=300)
    print(said)
    assert driver.returncode == 2, said
    assert "Traceback" not in said
    node = rf"node worker \({re.escape(cluster.worker.address)}\) has another disk"
    assert re.search(rf"storage {cluster.sweep}: {node}", said), said
    assert TO_FIX_IT in said
    cluster.check_nothing_was_written()
    assert not list(cluster.sweep.glob(".probe-*"))


def test_a_worker_that_is_there_already_is_refused_at_the_start(cluster: TwoHosts) -> None:
    cluster.give_worker_another_disk()
    cluster.join()
    driver = cluster.start_driver()
    _, said = driver.communicate(timeout=300)
    print(said)
    assert driver.returncode == 2, said
    assert "Traceback" not in said
    assert f"storage {cluster.sweep}: on a cluster of 2 nodes it must be one folder" in said
    assert f"{cluster.worker.address}: what the driver wrote there is not seen here" in said
    assert TO_FIX_IT in said
    cluster.check_nothing_was_written()


def test_a_worker_with_the_same_disk_runs_the_sweep(cluster: TwoHosts) -> None:
    """It joins when the sweep waits for it, too."""
    driver = cluster.start_driver()
    cluster.wait_for_probe(driver)
    cluster.join()
    _, said = driver.communicate(timeout=300)
    print(said)
    assert driver.returncode == 0, said
    assert len(list(cluster.sweep.glob("math/trials/*/result.json"))) == 3
