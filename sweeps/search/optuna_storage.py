"""Connections to a database server that may be restarted while a study runs.

Optuna's database for a driver, which may be interrupted at any moment, as may a server.

Optuna's storage of a sweep, opened, or a sentence about why not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from types import MethodType
from typing import Any, final

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from sqlalchemy import Engine, event
from sqlalchemy.engine import Dialect

from sweeps.storage.errors import UserError
from sweeps.storage.interrupts import is_interrupted, shielded
from sweeps.storage.study_paths import StudyPaths

PATIENCE_SECONDS, AGAIN_SECONDS = 120.0, 0.5
"""How long a server is waited for, and between two attempts."""


@final
class ReconnectingConnect:
    """How an engine connects: again and again for a while, and then no more than once each time,
    until the server is back; so does who has to stop."""

    def __init__(self, address: str) -> None:
        """``address``: the database, as the user gave it."""
        self._address, self._has_given_up = address, False

    @classmethod
    def listen(cls, engine: Engine, address: str) -> None:
        """From now on the engine connects like this."""
        event.listen(engine, "do_connect", cls(address))

    def __call__(
        self, dialect: Dialect, record: Any, arguments: list[Any], named: dict[str, Any]
    ) -> Any:
        """A connection of the driver's.

        Raises:
            UserError: the server does not answer.
        """
        began = time.monotonic()
        while True:
            try:
                connection = dialect.connect(*arguments, **named)
            except dialect.loaded_dbapi.OperationalError as error:
                is_long = time.monotonic() - began > PATIENCE_SECONDS
                if self._has_given_up or is_long or is_interrupted():
                    self._has_given_up = True
                    raise UserError(self._gone(error)) from error
                time.sleep(AGAIN_SECONDS)
                continue
            self._has_given_up = False
            return connection

    def _gone(self, error: Exception) -> str:
        said = " ".join(str(error).split())
        return (
            f"database {self._address}: {said[:400]} It was there before, and nothing that is in "
            "it is lost: once it answers again, the same command goes on"
        )


@final
class InterruptSafeStorage(RDBStorage):
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


ANSWER_SECONDS = 10


def open_storage(place: StudyPaths) -> InterruptSafeStorage:
    """The storage with the sweep's studies; its tables are made where there are none.

    Raises:
        UserError: the file is no database; or its server does not answer, refuses, or cannot be
            spoken to.
    """
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    pass

    try:
        if place.database is None:
            return InterruptSafeStorage(place.optuna_url())
        # No connection is kept: a server has few, and may be restarted between two calls.
        given = {"connect_args": {"connect_timeout": ANSWER_SECONDS}, "poolclass": NullPool}
        url = place.database.replace("postgresql:", "postgresql+psycopg:", 1)
        storage = InterruptSafeStorage(url, engine_kwargs=given)
    except ImportError:
        raise UserError(
            f"database {place.database}: needs psycopg, which is not installed; install it (pip "
            "install 'psycopg[binary]'), or leave the key out, and the database is a file"
        ) from None
    except SQLAlchemyError as error:
        said = " ".join(str(error.__cause__ or error).split())
        if place.database is None:
            file = place.optuna_file()
            raise UserError(f"{file}: the database cannot be read ({said})") from None
        raise UserError(
            f"database {place.database}: {said[:400]} Start the server, or mend the address; the "
            "password comes from PGPASSWORD or ~/.pgpass"
        ) from None
    ReconnectingConnect.listen(storage.engine, place.database)
    return storage
