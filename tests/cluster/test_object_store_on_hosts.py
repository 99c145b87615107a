"""A sweep whose storage is an object store, on hosts that share nothing else: no folder, no home.

As `tests.cluster.test_local_cluster`; moto's S3 runs on the laptop's host.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.hosts import Hosts, missing_programs
from tests.cluster.local_cluster import ROOT, LocalCluster
from tests.sweeps.object_stores import ENVIRONMENT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]
if sys.platform != "linux" or os.geteuid() != 0 or missing_programs():
    pytest.skip(
        f"needs Linux, root and {', '.join(missing_programs()) or 'its programs'}",
        allow_module_level=True,
    )

PORT = 5555


@dataclass(frozen=True)
class Bucket:
    """The bucket of a cluster, and what a sweep named "bucket" has in it."""

    cluster: LocalCluster

    @property
    def address(self) -> str:
        place = f"{self.cluster.laptop.address}:{PORT}"
        return f"s3://sweeps/team?endpoint_override={place}&scheme=http"

    def make(self) -> subprocess.Popen[bytes]:
        """Start its server; returns that."""
        server = self.cluster.laptop.start(f"exec moto_server -H 0.0.0.0 -p {PORT}", "moto.log")
        made = f"curl -s -m 10 -X PUT http://127.0.0.1:{PORT}/sweeps"
        self._until(lambda: self.cluster.laptop.run(made, check=False).returncode == 0, 60)
        return server

    def names(self) -> set[str]:
        page = f"http://127.0.0.1:{PORT}/sweeps?list-type=2&prefix=team/bucket/math/trials"
        said = self.cluster.laptop.run(f"curl -s -m 10 '{page}'").stdout
        return set(re.findall("<Key>([^<]*)</Key>", said))

    def submit(self) -> str:
        """Two workers, one trial on each at a time."""
        return self.cluster.submit(
            *("-m", "sweeps", "run", f"{self.cluster.hosts.shared}/math.yaml", "name=bucket"),
            *(f"storage={self.address}", "search.trials=3", "search.scheduler.name=none"),
            *("training.examples=6144", "training.checkpoint_updates=20"),
        )

    def wait_until_under_way(self, job: str) -> None:
        """Two trials have sent a checkpoint."""

        def both() -> bool:
            assert self.cluster.status(job) in ("PENDING", "RUNNING"), self.cluster.logs(job)
            return len({n.split("/")[4] for n in self.names() if n.endswith("state.pt")}) == 2

        self._until(both, 300)

    def ask_from_the_laptop(self, command: str) -> Any:
        """A light command on a machine that has only the address."""
        access = " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())
        sweep = shlex.quote(self.address.replace("?", "/bucket?"))
        line = f"cd {ROOT}; {access} python -m sweeps {command} {sweep} --json"
        return json.loads(self.cluster.laptop.run(line).stdout)["result"]

    def _until(self, true: Any, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                raise TimeoutError(sorted(self.names()))
            time.sleep(1)


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with Hosts("head", "worker-1", "worker-2", "laptop", kept=[ROOT]) as hosts:
        up = LocalCluster(hosts, cpus_per_worker=1, environment=ENVIRONMENT)
        found = Bucket(up)
        server = found.make()
        up.up()
        tree = yaml.safe_load((ROOT / "sweeps" / "configs" / "mini.yaml").read_text())
        tree["domains"] = {"math": tree["domains"]["math"]}
        Path(hosts.shared, "math.yaml").write_text(yaml.safe_dump(tree))
        yield found
        up.down()
        server.kill()
        server.wait()


def test_a_worker_host_is_lost_and_its_trial_goes_on_in_the_other(bucket: Bucket) -> None:
    cluster = bucket.cluster
    job = bucket.submit()
    bucket.wait_until_under_way(job)
    look = bucket.ask_from_the_laptop("status")
    assert look["state"] == "running"
    assert look["driver"]["id"]
    cluster.hosts["worker-1"].kill()
    cluster.finish(job, 600)
    rows = bucket.ask_from_the_laptop("leaderboard")["math"]
    assert [row["state"] for row in rows] == ["finished"] * 3
    ended = {name.split("/")[4] for name in bucket.names() if name.endswith("result.json")}
    assert ended == {row["key"] for row in rows}
    for host in (cluster.head, *cluster.workers):  # nothing of it lies on a disk of a worker
        left = list((host.home / ".gmt-sweep" / "work").glob("*/*/"))
        assert not left or host.name == "worker-1"


def test_the_head_s_disk_is_lost(bucket: Bucket) -> None:
    cluster = bucket.cluster
    cluster.hosts.restart("worker-1")
    cluster.wait_for_nodes(3)
    before = bucket.names()
    cluster.head.run("rm -r ~/.gmt-sweep")
    said = cluster.finish(bucket.submit(), 300)
    assert "all 3 trials are already done" in said
    assert bucket.names() == before


def test_a_node_that_may_not_use_the_bucket_is_refused(bucket: Bucket) -> None:
    cluster = bucket.cluster
    cluster.workers[0].run(f"ip route add blackhole {cluster.laptop.address}/32")
    with pytest.raises(AssertionError, match="one store that all can use"):
        cluster.finish(bucket.submit(), 300)
