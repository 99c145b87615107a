"""Names of libraries that they do not promise to keep, each with what the public API lacks.

`tests/test_compat.py` fails with a sentence where one of them has gone.
"""

from __future__ import annotations

from typing import Any

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

PLAIN = (DynamicLayer, DynamicSlidingWindowLayer)
"""The layers that keep the keys and values of all, or the latest, positions. A cache can be built
of layers of one's own, but the classes to derive them from are in no reference."""


def cache_layers(config: Any) -> list[Any]:
    """The layers of the cache that a model would make itself; no function names their kinds."""
    layers: list[Any] = DynamicCache(config=config).layers
    return layers


def task_filters(task: Any) -> list[Any]:
    """What filters answers to a task of lm-eval; its public way takes those of all documents."""
    filters: list[Any] = task._filters
    return filters
