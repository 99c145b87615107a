"""Optuna's storage of a sweep, opened, or a sentence about why not."""

from __future__ import annotations

from sweeps.errors import UserError
from sweeps.folder.place import StudyPlace
from sweeps.search.whole_storage import WholeStorage

ANSWER_SECONDS = 10


def open_storage(place: StudyPlace) -> WholeStorage:
    """The storage with the sweep's studies; its tables are made where there are none.

    Raises:
        UserError: the file is no database; or its server does not answer, refuses, or cannot be
            spoken to.
    """
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    from sweeps.search.patient_connect import PatientConnect

    try:
        if place.database is None:
            return WholeStorage(place.optuna_url())
        # No connection is kept: a server has few, and may be restarted between two calls.
        given = {"connect_args": {"connect_timeout": ANSWER_SECONDS}, "poolclass": NullPool}
        url = place.database.replace("postgresql:", "postgresql+psycopg:", 1)
        storage = WholeStorage(url, engine_kwargs=given)
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
    PatientConnect.listen(storage.engine, place.database)
    return storage
