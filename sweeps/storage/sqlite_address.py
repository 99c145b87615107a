"""Build and read the address of an SQLite file; SQLAlchemy does the escaping."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl

SQLITE = "sqlite:///"


def sqlite_address(file: Path) -> str:
    """``sqlite:///FILE`` for any file name, including ones with ``?``, ``%`` or ``#``."""
    from sqlalchemy.engine import URL

    return URL.create("sqlite", database=str(file)).render_as_string()


def sqlite_path(address: str) -> Path | None:
    """The absolute path of the file at an address; None if it is not an SQLite address.

    Raises:
        ValueError: the text after ``?`` is not a list of options.
    """
    if not address.startswith(SQLITE):
        return None
    from sqlalchemy.engine import make_url

    _, mark, options = address.partition("?")
    try:
        parse_qsl(options, keep_blank_values=True, strict_parsing=bool(mark))
    except ValueError:
        raise ValueError(
            f"{address!r}: expected options such as timeout=5 after the '?'; write a '?' in the "
            "file's name as %3F"
        ) from None
    return Path(make_url(address).database or "").absolute()


def for_mlflow(address: str) -> str:
    """The address as MLflow accepts it.

    For ``sqlite:`` MLflow creates the folder without decoding escapes, so an address with escapes
    names the driver too, which MLflow passes on unchanged.
    """
    escaped = address.startswith(SQLITE) and "%" in address
    return address.replace("sqlite:", "sqlite+pysqlite:", 1) if escaped else address
