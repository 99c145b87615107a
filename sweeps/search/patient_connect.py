"""Connections to a database server that may be restarted while a study runs."""

from __future__ import annotations

import time
from typing import Any, final

from sqlalchemy import Engine, event
from sqlalchemy.engine import Dialect

from sweeps.errors import UserError
from sweeps.interrupts import is_interrupted

PATIENCE_SECONDS, AGAIN_SECONDS = 120.0, 0.5
"""How long a server is waited for, and between two attempts."""


@final
class PatientConnect:
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
