"""Whether the Triton kernels can run."""

from __future__ import annotations

import os
import shutil
import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch


@cache
def kernels_for(device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    """`gmt_core.kernels` for gradients on CUDA of 16 or 32 bits where Triton is installed."""
    if device.type != "cuda" or dtype.itemsize > 4 or not _compiles():
        return None
    return import_module("gmt_core.kernels")


@cache
def _compiles() -> bool:
    """Whether Triton is installed, and the C compiler that it builds its launchers with."""
    if find_spec("triton") is None:
        return False
    found = os.environ.get("CC") or next(filter(None, map(shutil.which, ("gcc", "clang"))), None)
    if not found:
        warnings.warn(
            "gmt_core: Triton finds no C compiler, so masks are computed by torch, which is "
            "slower; install gcc (apt-get install gcc), or set CC",
            stacklevel=2,
        )
    return bool(found)
