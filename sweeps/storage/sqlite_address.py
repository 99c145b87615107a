"""The address of a SQLite file, built and read by SQLAlchemy, which knows how to escape it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl

SQLITE = "sqlite:///"


def sqlite_address(file: Path) -> str:
    """``sqlite:///FILE`` for any file name, also one with ``?``, ``%`` or ``#`` in it."""
    from sqlalchemy.engine import URL

    return URL.create("sqlite", database=str(file)).render_as_string()


def sqlite_path(address: str) -> Path | None:
    """The absolute path of the file behind an address; None if it is not a SQLite one.

    Raises:
        ValueError: what follows a ``?`` is no list of options.
    """
    if not address.startswith(SQLITE):
        return None
    from sqlalchemy.engine import make_url

    _, mark, options = address.partition("?")
    try:
        parse_qsl(options, keep_blank_values=True, strict_parsing=bool(mark))
    except ValueError:
        raise ValueError(
            f"{address!r}: expected options as timeout=5 after the '?'; a '?' in the file's name "
            "is written %3F"
        ) from None
    return Path(make_url(address).database or "").absolute()


def for_mlflow(address: str) -> str:
    """The address as MLflow takes it.

    For ``sqlite:`` MLflow makes the folder that the address names without reading its escapes,
    so one with escapes names the driver, too, which MLflow leaves alone.
    """
    escaped = address.startswith(SQLITE) and "%" in address
    return address.replace("sqlite:", "sqlite+pysqlite:", 1) if escaped else address
