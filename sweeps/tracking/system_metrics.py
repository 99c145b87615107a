"""Node utilization while a trial trains, under the names that MLflow's page uses."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import final

import psutil

SAMPLE_SECONDS = 10.0


@final
class SystemMetrics:
    """Samples this node, at most once every `SAMPLE_SECONDS`."""

    def __init__(self) -> None:
        self._next = 0.0

    def due(self) -> dict[str, float]:
        """A sample if it is time for one; else empty."""
        now = time.monotonic()
        if now < self._next:
            return {}
        self._next = now + SAMPLE_SECONDS
        return sample()


def sample() -> dict[str, float]:
    """CPU use since the last sample (percent of all cores), memory (MB) and GPU metrics."""
    memory = psutil.virtual_memory()
    found = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / 1e6,
        "system/system_memory_usage_percentage": memory.percent,
    }
    return {**found, **_gpu()}


def _gpu() -> dict[str, float]:
    import torch

    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    found = {
        "system/gpu_0_memory_usage_megabytes": (total - free) / 1e6,
        "system/gpu_0_memory_usage_percentage": 100 * (total - free) / total,
    }
    with suppress(ModuleNotFoundError, RuntimeError):  # needs nvidia-ml-py, from the extra `gpu`
        found["system/gpu_0_utilization_percentage"] = float(torch.cuda.utilization())
    return found
