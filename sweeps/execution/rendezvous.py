"""How the workers of a group find each other and connect.

On a cluster, they use a port of rank 0 and the addresses by which Ray knows the machines. On one
machine, they use a file and the loopback interface, so that nothing listens on a network.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from ray.train.torch import TorchConfig

from sweeps.execution.train_compat import MeetingAt, TorchBackend
from sweeps.storage.cluster_address import cluster_address

TIMEOUT_SECONDS = 1800


def torch_config() -> TorchConfig:
    """The configuration for worker groups, on a joined cluster or on this machine alone."""
    if cluster_address():
        return GroupConfig(timeout_s=TIMEOUT_SECONDS)
    folder = tempfile.mkdtemp(prefix="gmt-rendezvous-")
    # The last worker to leave removes the file, but killed workers never leave.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return GroupConfig(timeout_s=TIMEOUT_SECONDS, folder=folder)


@final
@dataclass
class GroupConfig(TorchConfig):
    """Torch's process group. ``folder``: where workers of one machine meet; else empty."""

    folder: str = ""

    @property
    def backend_cls(self) -> type[TorchBackend]:
        """The class that sets up the group."""
        return _Backend


@final
class _Backend(TorchBackend):
    def on_start(self, worker_group: Any, backend_config: GroupConfig) -> None:
        """Like Ray's, except for the rendezvous and the network interface."""
        try:
            if backend_config.folder:
                place = Path(backend_config.folder) / uuid.uuid4().hex  # new for each start
                worker_group = MeetingAt(worker_group, f"file://{place}")
            else:
                worker_group.execute(talk_over_own_address)
            super().on_start(worker_group, backend_config)
        except BaseException:
            with contextlib.suppress(Exception):
                worker_group.shutdown()  # otherwise Train keeps its resources
            raise


def talk_over_own_address() -> None:
    """On a worker: make gloo use the interface of the address by which Ray knows this machine.

    By default gloo resolves the machine's name. On many machines that is 127.0.0.1, where workers
    on other machines cannot reach it.
    """
    import psutil
    import ray

    mine = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == mine for each in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
