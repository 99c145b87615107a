"""How the workers of a group find and reach each other.

On a cluster they meet as Ray has it, by a port of rank 0, and talk over the addresses that Ray
knows the machines by; on one machine they meet in a file and talk over the loopback interface, so
that nothing listens to any network.
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
    """For the groups of this session, of a cluster that was joined or of this machine alone."""
    if cluster_address():
        return GroupConfig(timeout_s=TIMEOUT_SECONDS)
    folder = tempfile.mkdtemp(prefix="gmt-rendezvous-")
    # The last worker to leave a file removes it, but those that are killed never leave.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return GroupConfig(timeout_s=TIMEOUT_SECONDS, folder=folder)


@final
@dataclass
class GroupConfig(TorchConfig):
    """Torch's process group. ``folder``: where workers of one machine meet; else empty."""

    folder: str = ""

    @property
    def backend_cls(self) -> type[TorchBackend]:
        """What sets it up."""
        return _Backend


@final
class _Backend(TorchBackend):
    def on_start(self, worker_group: Any, backend_config: GroupConfig) -> None:
        """As Ray has it, but for where the workers meet and by which interface they talk."""
        try:
            if backend_config.folder:
                place = Path(backend_config.folder) / uuid.uuid4().hex  # new for each start
                worker_group = MeetingAt(worker_group, f"file://{place}")
            else:
                worker_group.execute(talk_over_own_address)
            super().on_start(worker_group, backend_config)
        except BaseException:
            with contextlib.suppress(Exception):
                worker_group.shutdown()  # Train would keep its place, and leave none for the next
            raise


def talk_over_own_address() -> None:
    """On a worker: gloo uses the interface with the address that Ray knows this machine by.

    By itself it takes what the machine's name stands for, which on many is 127.0.0.1, where
    the workers on other machines would look for it in vain.
    """
    import psutil
    import ray

    mine = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == mine for each in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
