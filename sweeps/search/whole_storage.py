"""Optuna's database for a driver, which may be interrupted at any moment, as may a server."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import MethodType
from typing import Any, final

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage

from sweeps.interrupts import shielded


@final
class WholeStorage(RDBStorage):
    """An interrupt waits until the call it comes in has ended; a call that lost its connection is
    made once more.

    Within a call, the traceback would hold a cursor, the cursor sqlite's lock, and whoever handles
    the interrupt could write nothing any more. A call is a transaction: what a server that stops
    cuts off has changed nothing, unless it was the answer that was lost.
    """

    def __getattribute__(self, name: str) -> Any:
        """Every method, also those that Optuna's own cache calls."""
        found = super().__getattribute__(name)
        return shielded()(_once_more(found)) if isinstance(found, MethodType) else found


def _once_more(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def called(*arguments: Any, **named: Any) -> Any:
        try:
            return call(*arguments, **named)
        except StorageInternalError as error:
            if not getattr(error.__cause__, "connection_invalidated", False):  # SQLAlchemy's
                raise
        try:
            return call(*arguments, **named)
        except UpdateFinishedTrialError:
            if call.__name__ != "set_trial_state_values":
                raise
            return True  # the first one had ended the trial

    return called
