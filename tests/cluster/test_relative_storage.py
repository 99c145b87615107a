"""A relative storage on a cluster that may grow: it names another folder on every node."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.sweeps.on_ray.mini_sweeps import tree

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


def test_it_is_refused_before_any_node_comes(tmp_path: Path, root: Path) -> None:
    """The cluster begins with a head that has no CPU, as `ray up` on a cloud does."""
    from ray.cluster_utils import Cluster

    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(tree(Path("runs"))))
    small = {"object_store_memory": 80 * 2**20}
    head = {"num_cpus": 0, "include_dashboard": True, **small}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "HOME": str(tmp_path),
        "RAY_ADDRESS": cluster.address,
        "RAY_USAGE_STATS_KUBERAY_IN_USE": "1",  # more nodes may come
    }
    command = [sys.executable, "-m", "sweeps", "run", "sweep.yaml"]
    try:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
        )
    finally:
        cluster.shutdown()
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    storage = tmp_path / "runs" / "small"
    assert f"storage {storage}: expected an absolute path on a cluster" in done.stderr
    assert not list(storage.glob(".probe-*"))
