"""A node that joins a sweep later, and has another disk where the driver has the storage."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.sweeps.on_ray.mini_sweeps import tree

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]
if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
    pytest.skip("needs Linux, root and unshare", allow_module_level=True)

SMALL = {"object_store_memory": 80 * 2**20}


@pytest.mark.parametrize("relative", [False, True])
def test_its_first_trial_is_refused_before_it_writes(
    tmp_path: Path, root: Path, relative: bool
) -> None:
    """The cluster begins with a head that has no CPU, as `ray up` on a cloud does."""
    from ray.cluster_utils import Cluster

    storage, other = tmp_path / "runs", tmp_path / "other"
    for folder in (storage, other):
        folder.mkdir()
    given = Path("runs") if relative else storage
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(tree(given)))
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": True, **SMALL},
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "HOME": str(tmp_path),
        "RAY_ADDRESS": cluster.address,
        "RAY_USAGE_STATS_KUBERAY_IN_USE": "1",  # more nodes may come
    }
    command = [sys.executable, "-m", "sweeps", "run", "sweep.yaml"]
    pipe = subprocess.PIPE
    driver = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True
    )
    node = None
    try:
        if not relative:
            while not list((storage / "small").glob(".probe-*")):
                assert driver.poll() is None, driver.communicate()
                time.sleep(0.2)
            node = _join(cluster.address, storage, other)
        _, said = driver.communicate(timeout=240)
    finally:
        driver.kill()
        driver.wait()
        if node is not None:
            node.kill()
            node.wait()
        cluster.shutdown()
    assert driver.returncode == 2, said
    assert "Traceback" not in said
    if relative:
        assert f"storage {storage / 'small'}: expected an absolute path on a cluster" in said
    else:
        assert re.search(
            rf"storage {storage / 'small'}: node \S+ \(\S+\) has a different disk", said
        )
    assert list(other.iterdir()) == []
    assert not list((storage / "small").glob(".probe-*"))


def _join(address: str, storage: Path, other: Path) -> subprocess.Popen[bytes]:
    """A node of one CPU whose processes see the folder ``other`` in place of ``storage``."""
    ray = Path(sys.executable).with_name("ray")
    joins = (
        f"'{ray}' start --address={address} --num-cpus=1 --block --object-store-memory=80000000"
    )
    script = f"mount --bind '{other}' '{storage}' && exec {joins}"
    command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    quiet = subprocess.DEVNULL
    return subprocess.Popen([*command, "bash", "-c", script], stdout=quiet, stderr=quiet)
