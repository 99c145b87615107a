"""The address of a PostgreSQL database, which drivers on many machines may share."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from sweeps.errors import SecretError

SCHEME = "postgresql"
_LIKE = "expected postgresql://USER@HOST:PORT/NAME"


def check_database(url: str) -> str:
    """A database's address as SQLAlchemy takes it.

    Raises:
        ValueError: what is wrong with it, and what was expected; a secret is not repeated.
    """
    parts = urlsplit(url)
    if parts.password or "password" in parse_qs(parts.query):
        raise SecretError(
            "an address with a password in it, which a sweep's records would show to everybody: "
            f"{_LIKE}, and the password in the environment as PGPASSWORD, or in ~/.pgpass"
        )
    if parts.scheme in ("postgres", "psql", "pg", "postgresql+psycopg"):
        raise ValueError(f"{url!r}: did you mean '{SCHEME}://{parts.netloc}{parts.path}'?")
    if parts.scheme != SCHEME:
        raise ValueError(
            f"{url!r}: {_LIKE}; without this key the studies' database is a file of the storage"
        )
    try:
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        port_is_fine = False
    if not (parts.hostname and port_is_fine and parts.path.strip("/")):
        raise ValueError(f"{url!r}: {_LIKE}, with the host and the database's name")
    return url
