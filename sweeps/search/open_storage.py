"""Optuna's storage of a sweep, opened, or a sentence about why not."""

from __future__ import annotations

from typing import TypeVar

from optuna.storages import RDBStorage

from sweeps.errors import UserError
from sweeps.folder.place import StudyPlace

ANSWER_SECONDS = 10

Storage = TypeVar("Storage", bound=RDBStorage)


def open_storage(place: StudyPlace, kind: type[Storage]) -> Storage:
    """The storage with the sweep's studies; its tables are made where there are none.

    Raises:
        UserError: the server of the database does not answer, refuses, or cannot be spoken to.
    """
    if place.database is None:
        return kind(place.optuna_url())
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    try:
        # No connection is kept: a server has few, and may be restarted while a study runs.
        given = {"connect_args": {"connect_timeout": ANSWER_SECONDS}, "poolclass": NullPool}
        url = place.database.replace("postgresql:", "postgresql+psycopg:", 1)
        return kind(url, engine_kwargs=given)
    except ImportError:
        raise UserError(
            f"database {place.database}: needs psycopg, which is not installed; install it (pip "
            "install 'psycopg[binary]'), or leave the key out, and the database is a file"
        ) from None
    except SQLAlchemyError as error:
        said = " ".join(str(error.__cause__ or error).split())
        raise UserError(
            f"database {place.database}: {said[:400]} Start the server, or mend the address; the "
            "password comes from PGPASSWORD or ~/.pgpass"
        ) from None
