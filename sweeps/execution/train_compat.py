"""Names of Ray Train that it does not promise to keep, each with what its public API lacks.

`tests/test_compat.py` fails with a sentence where one of them has gone.
"""

from __future__ import annotations

from typing import Any, final

from ray.train.torch import TorchTrainer
from ray.train.torch.config import _TorchBackend as TorchBackend
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback

__all__ = ["MeetingAt", "TorchBackend", "TrainerWithoutDatasets"]


@final
class TrainerWithoutDatasets(TorchTrainer):
    """Train gives each group a process that shares out Ray datasets, which ours have none of, and
    no option leaves it out."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [each for each in callbacks if not isinstance(each, DatasetsCallback)]


@final
class MeetingAt:
    """A group of workers as `TorchBackend` sees it, whose calls that name a way to meet are given
    this one: `TorchConfig` takes "env" and "tcp" alone, which both listen to the network."""

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
