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
from sweeps.storage.address import cluster_address

TIMEOUT_SECONDS = 1800


def torch_config(queue: str = "") -> TorchConfig:
    """The configuration for worker groups, on a joined cluster or on this machine alone.

    ``queue``: the actor that is told of a node whose GPU cannot be used.
    """
    if cluster_address():
        return GroupConfig(timeout_s=TIMEOUT_SECONDS, queue=queue)
    folder = tempfile.mkdtemp(prefix="gmt-rendezvous-")
    # The last worker to leave removes the file, but killed workers never leave.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return GroupConfig(timeout_s=TIMEOUT_SECONDS, folder=folder, queue=queue)


@final
@dataclass
class GroupConfig(TorchConfig):
    """Torch's process group. ``folder``: where workers of one machine meet; else empty.

    ``queue``: see `torch_config`.
    """

    folder: str = ""
    queue: str = ""

    @property
    def backend_cls(self) -> type[TorchBackend]:
        """The class that sets up the group."""
        return _Backend


@final
class _Backend(TorchBackend):
    def on_start(self, worker_group: Any, backend_config: GroupConfig) -> None:
        """Like Ray's, except for the rendezvous and the network interface."""
        try:
            _check_gpus(worker_group, backend_config.queue)
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


def _check_gpus(worker_group: Any, queue: str) -> None:
    """Raise RuntimeError if a worker cannot use its GPU, after telling the queue of the node."""
    import ray

    nodes = [node for node in worker_group.execute(node_without_gpu) if node]
    if queue:
        ray.get([ray.get_actor(queue).blame.remote(node) for node in nodes])
    if nodes:
        raise RuntimeError(f"no CUDA GPUs are available on {', '.join(nodes)}")


def node_without_gpu() -> str:
    """On a worker: its node's id if Ray gave it a GPU that torch cannot use; else empty."""
    import ray
    import torch

    context = ray.get_runtime_context()
    is_given = bool(context.get_accelerator_ids().get("GPU"))
    return context.get_node_id() if is_given and not torch.cuda.is_available() else ""


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
