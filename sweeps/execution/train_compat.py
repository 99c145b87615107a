"""Private names of Ray Train, each with the reason why its public API is not enough.

`tests/test_compat.py` checks that they exist.
"""

from __future__ import annotations

from typing import Any, final

from ray.train.torch import TorchTrainer
from ray.train.torch.config import _TorchBackend as TorchBackend
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback

__all__ = ["MeetingAt", "TorchBackend", "TrainerWithoutDatasets"]


@final
class TrainerWithoutDatasets(TorchTrainer):
    """A TorchTrainer without the process that distributes Ray datasets, which we do not use.

    Train has no option to leave that process out.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [each for each in callbacks if not isinstance(each, DatasetsCallback)]


@final
class MeetingAt:
    """Wraps a worker group so that its process group uses ``url`` as the rendezvous.

    `TorchConfig` accepts only "env" and "tcp", which both listen on the network.
    """

    def __init__(self, worker_group: Any, url: str) -> None:
        self._group, self._url = worker_group, url

    def __len__(self) -> int:
        return len(self._group)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)

    def execute_single_async(self, index: int, function: Any, **given: Any) -> Any:
        """As the group does, with our rendezvous."""
        if "init_method" in given:
            given["init_method"] = self._url
        return self._group.execute_single_async(index, function, **given)
