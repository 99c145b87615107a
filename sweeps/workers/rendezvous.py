"""How the workers of a group find each other: on a cluster as Ray has it, by a port of rank 0,
which listens to every network; on one machine by a file, so that nothing listens to any."""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path
from typing import Any, final

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

TIMEOUT_SECONDS = 1800


def torch_config() -> TorchConfig:
    """For the groups of this session, of a cluster that was joined or of this machine alone."""
    kind = TorchConfig if os.environ.get("RAY_ADDRESS") else OneMachine
    return kind(timeout_s=TIMEOUT_SECONDS)


@final
class OneMachine(TorchConfig):
    """Torch's process group for workers that share a disk and a loopback interface."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What sets it up."""
        return _FileBackend


@final
class _FileBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """As Ray has it, but for the place where the workers meet."""
        # Torch removes the file itself, when the last worker has left.
        place = Path(tempfile.gettempdir()) / f"gmt-rendezvous-{uuid.uuid4().hex}"
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
