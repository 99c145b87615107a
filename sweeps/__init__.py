"""Sweeps of Gradient-Mask Tuning: ``from sweeps import load_config, run, open_results``.

The three are imported when they are first used, since Ray and PyTorch take seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.config.load import load_config
    from sweeps.execution.results import open_results
    from sweeps.execution.sweep import run

__all__ = ["load_config", "open_results", "run"]

_HOMES = {
    "load_config": "sweeps.config.load",
    "open_results": "sweeps.execution.results",
    "run": "sweeps.execution.sweep",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sweeps' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
