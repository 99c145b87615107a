"""Whether the Triton kernels can run."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch


@cache
def kernels_for(device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    """`gmt_core.kernels` for gradients on CUDA of 16 or 32 bits where Triton is installed."""
    if device.type != "cuda" or dtype.itemsize > 4 or find_spec("triton") is None:
        return None
    return import_module("gmt_core.kernels")
