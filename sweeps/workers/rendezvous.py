"""How the workers of a group find each other: on a cluster as Ray has it, by a port of rank 0,
which listens to every network; on one machine by a file, so that nothing listens to any."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

TIMEOUT_SECONDS = 1800


def torch_config() -> TorchConfig:
    """For the groups of this session, of a cluster that was joined or of this machine alone."""
    if os.environ.get("RAY_ADDRESS"):
        return TorchConfig(timeout_s=TIMEOUT_SECONDS)
    folder = tempfile.mkdtemp(prefix="gmt-rendezvous-")
    # The last worker to leave a file removes it, but those that are killed never leave.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return OneMachine(timeout_s=TIMEOUT_SECONDS, folder=folder)


@final
@dataclass
class OneMachine(TorchConfig):
    """Torch's process group for workers that share a disk, where they meet in a file of
    ``folder``, and a loopback interface."""

    folder: str = ""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What sets it up."""
        return _FileBackend


@final
class _FileBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: OneMachine) -> None:
        """As Ray has it, but for the place where the workers meet: a new one for each start."""
        place = Path(backend_config.folder) / uuid.uuid4().hex
        super().on_start(_MeetingAt(worker_group, f"file://{place}"), backend_config)


@final
class _MeetingAt:
    """A group of workers whose calls that name a way to meet are given this one."""

    def __init__(self, worker_group: Any, url: str) -> None:
        self._group, self._url = worker_group, url

    def __len__(self) -> int:
        return len(self._group)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)

    def execute_single_async(self, index: int, function: Any, **given: Any) -> Any:
        """As the group, at our place."""
        if "init_method" in given:
            given["init_method"] = self._url
        return self._group.execute_single_async(index, function, **given)
