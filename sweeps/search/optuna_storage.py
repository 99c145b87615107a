"""Open a sweep's Optuna storage, safe against interrupts and database restarts."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import MethodType
from typing import Any, final

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from sqlalchemy import Engine, event
from sqlalchemy.engine import Dialect

from sweeps.storage.address import sqlite_address
from sweeps.storage.atomic_io import atomic_file
from sweeps.storage.errors import UserError, nearest
from sweeps.storage.interrupts import is_interrupted, shielded
from sweeps.storage.study_paths import StudyPaths

PATIENCE_SECONDS, AGAIN_SECONDS = 120.0, 0.5
"""How long to wait for a server, and between two attempts."""


def reconnect(engine: Engine, address: str) -> None:
    """From now on, connect an engine to a server that restarts. ``address``: as the user gave it.

    It retries for a while. If that fails or the process is interrupted, each later call tries only
    once, until the server is back; it raises a UserError if the server does not respond.
    """
    has_given_up = False

    def connect(dialect: Dialect, record: Any, arguments: list[Any], named: dict[str, Any]) -> Any:
        nonlocal has_given_up
        deadline = time.monotonic() + (0.0 if has_given_up else PATIENCE_SECONDS)
        while True:
            try:
                connection = dialect.connect(*arguments, **named)
                has_given_up = False
                return connection
            except dialect.loaded_dbapi.OperationalError as error:
                if time.monotonic() > deadline or is_interrupted():
                    has_given_up = True
                    said = " ".join(str(error).split())
                    raise UserError(
                        f"database {address}: {said[:400]} The connection was lost, but "
                        "no data. Run the same command again once the server responds"
                    ) from error
            time.sleep(AGAIN_SECONDS)

    event.listen(engine, "do_connect", connect)


@final
class InterruptSafeStorage(RDBStorage):
    """Delays interrupts until the current call ends; repeats a call that lost its connection.

    An interrupt within a call would leave a traceback that holds a cursor and with it SQLite's
    lock, so the handler could not write. Each call is a transaction: a call cut off by a stopping
    server changed nothing, unless only the response was lost.
    """

    def __getattribute__(self, name: str) -> Any:
        """Wrap every method, including those called by Optuna's own cache."""
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
            return True  # the first call ended the trial, and only its response was lost

    return called


def open_foreign(source: str, name: str | None) -> optuna.Study:
    """A study that another program recorded. ``source``: the address or the file of its database;
    ``name``: may be None if the database has one study.

    Raises:
        UserError: the database cannot be read, or has no such study.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        url = make_url(source if "://" in source else sqlite_address(Path(source).absolute()))
        said = url.render_as_string(hide_password=True)
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
            raise UserError(f"{said}: no such file")
        storage = RDBStorage(url.render_as_string(hide_password=False), skip_table_creation=True)
        names = optuna.get_all_study_names(storage)
    except (SQLAlchemyError, StorageInternalError, RuntimeError, ImportError) as error:
        why = " ".join(str(error.__cause__ or error).split())[:400]
        raise UserError(f"no Optuna database can be read there: {why}") from None
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        raise UserError(f"{said}: --study {name or 'NAME'}: {nearest(name or '', names)}")
    return optuna.load_study(study_name=name, storage=storage)


ANSWER_SECONDS = 10


def _create_file(file: Path) -> None:
    """Let a new database appear with all its tables: a reader would add those that are missing
    beside the driver, and one of the two would fail."""
    if not file.exists():
        with atomic_file(file) as partial:
            RDBStorage(sqlite_address(partial)).engine.dispose()


def open_storage(place: StudyPaths) -> InterruptSafeStorage:
    """The storage of the sweep's studies; creates missing tables.

    Raises:
        UserError: the file is not a database, or the server does not respond, rejects the
            connection, or lacks a driver.
    """
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    try:
        if place.database is None:
            _create_file(place.optuna_file())
            return InterruptSafeStorage(place.optuna_url())
        # Keep no connection: servers allow few, and may restart between two calls.
        given = {"connect_args": {"connect_timeout": ANSWER_SECONDS}, "poolclass": NullPool}
        url = place.database.replace("postgresql:", "postgresql+psycopg:", 1)
        storage = InterruptSafeStorage(url, engine_kwargs=given)
    except ImportError:
        raise UserError(
            f"database {place.database}: requires psycopg, which is not installed; install it "
            "(pip install 'psycopg[binary]'), or remove the key to use a database file"
        ) from None
    except SQLAlchemyError as error:
        said = " ".join(str(error.__cause__ or error).split())
        if place.database is None:
            file = place.optuna_file()
            raise UserError(f"{file}: the database cannot be read ({said})") from None
        raise UserError(
            f"database {place.database}: {said[:400]} Start the server or correct the address; "
            "the password is read from PGPASSWORD or ~/.pgpass"
        ) from None
    reconnect(storage.engine, place.database)
    return storage
