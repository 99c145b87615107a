"""Optuna's database for a driver, which may be interrupted at any moment."""

from __future__ import annotations

from types import MethodType
from typing import Any, final

from optuna.storages import RDBStorage

from sweeps.interrupts import shielded


@final
class WholeStorage(RDBStorage):
    """An interrupt waits until the call it comes in has ended.

    Within it, the traceback would hold a cursor, the cursor sqlite's lock, and whoever handles the
    interrupt could write nothing any more.
    """

    def __getattribute__(self, name: str) -> Any:
        """Every method, also those that Optuna's own cache calls."""
        found = super().__getattribute__(name)
        return shielded()(found) if isinstance(found, MethodType) else found
