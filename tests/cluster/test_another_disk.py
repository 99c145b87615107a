"""A cluster whose last worker has another disk where the driver has the storage.

The head drives and has no CPU, as on a cluster of `ray up`, so that every trial lands on a worker;
see `tests.cluster.hosts`.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
import yaml

from tests.cluster.hosts import Host, Hosts, missing_programs
from tests.cluster.local_cluster import ROOT
from tests.sweeps.on_ray.mini_sweeps import tree

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
if sys.platform != "linux" or os.geteuid() != 0 or missing_programs():
    pytest.skip(
        f"needs Linux, root and {', '.join(missing_programs()) or 'its programs'}",
        allow_module_level=True,
    )

TO_FIX_IT = "To fix it, mount one folder on every node"


@dataclass(frozen=True)
class Cluster:
    """A head that runs Ray and a sweep's driver, and workers that may join it."""

    hosts: Hosts

    @property
    def sweep(self) -> Path:
        """What the driver writes to."""
        return self.hosts.shared / "runs" / "small"

    def give_another_disk(self, host: Host) -> Path:
        """In place of the shared folder; returns where this machine sees it."""
        host.run(f"mkdir other; mount --bind other {self.hosts.shared}")
        return host.home / "other"

    def join(self, host: Host) -> None:
        """It becomes a node of one CPU."""
        _start_ray(host, f"--address={self.hosts['head'].address}:6379 --num-cpus=1")

    def start(self, *command: str) -> Popen[str]:
        """`python -m sweeps` on the head."""
        given = (
            f"RAY_ADDRESS={self.hosts['head'].address}:6379",
            f"PYTHONPATH={ROOT}",
            "RAY_USAGE_STATS_KUBERAY_IN_USE=1",  # more nodes may come
        )
        line = f"{' '.join(given)} exec python -m sweeps {' '.join(command)}"
        return Popen(self.hosts["head"].command(line), stdout=PIPE, stderr=PIPE, text=True)

    def start_sweep(self, *overrides: str) -> Popen[str]:
        return self.start("run", f"{self.hosts.shared}/sweep.yaml", *overrides)

    def wait_until_asked(self, driver: Popen[str]) -> None:
        """Until the driver has asked the nodes that there are, and left its word for others."""
        _wait(lambda: bool(list(self.sweep.glob(".probe-*"))), driver)

    def steps(self) -> dict[str, list[str]]:
        """The steps that each trial has told of, by its key."""
        files = self.sweep.glob("math/trials/*/events.jsonl")
        return {f.parent.name: re.findall(r'"step": ?(\d+)', f.read_text()) for f in files}

    def results(self) -> list[Path]:
        return list(self.sweep.glob("math/trials/*/result.json"))

    def check_refused_at_a_trial(self, driver: Popen[str], host: Host) -> None:
        _, said = driver.communicate(timeout=300)
        assert driver.returncode == 2, said
        assert "Traceback" not in said
        node = rf"node {host.name} \({re.escape(host.address)}\) has a different disk"
        assert re.search(rf"storage {self.sweep}: {node}", said), said
        assert TO_FIX_IT in said
        assert not list(self.sweep.glob(".probe-*"))

    def check_completes_once_mended(self, host: Host) -> None:
        """The host gets the shared folder, and the refused trial is tried again."""
        host.run(f"umount {self.hosts.shared}")
        driver = self.start("retry", str(self.sweep), "--kind", "configuration", "--run")
        _, said = driver.communicate(timeout=300)
        assert driver.returncode == 0, said
        assert len(self.results()) == 3


def _start_ray(host: Host, arguments: str) -> None:
    start = f"PYTHONPATH={ROOT} ray start --object-store-memory=100000000 {arguments}"
    host.run(f"{start} || (ray stop --force; {start})", timeout=240)


def _wait(true: Callable[[], bool], driver: Popen[str]) -> None:
    end = time.monotonic() + 240
    while not true():
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Hosts("head", "worker", "late", kept=[ROOT]) as hosts:
        (hosts.shared / "sweep.yaml").write_text(yaml.safe_dump(tree(hosts.shared / "runs")))
        _start_ray(hosts["head"], "--head --num-cpus=0 --port=6379 --dashboard-host=127.0.0.1")
        yield Cluster(hosts)


def test_the_first_worker_is_refused_at_its_first_trial(cluster: Cluster) -> None:
    """The sweep begins with no worker at all."""
    worker = cluster.hosts["worker"]
    disk = cluster.give_another_disk(worker)
    driver = cluster.start_sweep()
    cluster.wait_until_asked(driver)
    cluster.join(worker)
    cluster.check_refused_at_a_trial(driver, worker)
    assert list(disk.iterdir()) == []
    assert cluster.steps() == {}
    cluster.check_completes_once_mended(worker)


def test_a_late_worker_is_refused_and_the_trial_of_another_goes_on(cluster: Cluster) -> None:
    worker, late = cluster.hosts["worker"], cluster.hosts["late"]
    disk = cluster.give_another_disk(late)
    cluster.join(worker)
    driver = cluster.start_sweep(
        *("resources.concurrency=2", "training.examples=6144", "training.checkpoint_updates=20")
    )
    _wait(lambda: any(len(told) > 60 for told in cluster.steps().values()), driver)
    cluster.join(late)
    cluster.check_refused_at_a_trial(driver, late)
    assert list(disk.iterdir()) == []
    before = cluster.steps()
    cluster.check_completes_once_mended(late)
    after = cluster.steps()
    for trial, told in before.items():  # it went on from its checkpoint
        assert len(after[trial]) - len(set(after[trial])) < len(told)


def test_a_worker_that_is_there_already_is_refused_at_the_start(cluster: Cluster) -> None:
    worker = cluster.hosts["worker"]
    disk = cluster.give_another_disk(worker)
    cluster.join(worker)
    driver = cluster.start_sweep()
    _, said = driver.communicate(timeout=300)
    assert driver.returncode == 2, said
    assert "Traceback" not in said
    assert f"storage {cluster.sweep}: on a cluster of 2 nodes it must be one folder" in said
    assert f"{worker.address}: the driver's file is not visible there" in said
    assert TO_FIX_IT in said
    assert list(disk.iterdir()) == []
    assert not list(cluster.sweep.glob("math/trials/*"))


def test_a_worker_with_the_same_disk_runs_what_waits_for_it(cluster: Cluster) -> None:
    driver = cluster.start_sweep()
    cluster.wait_until_asked(driver)
    cluster.join(cluster.hosts["worker"])
    _, said = driver.communicate(timeout=300)
    assert driver.returncode == 0, said
    assert len(cluster.results()) == 3
