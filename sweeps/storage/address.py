"""Addresses: of an object store (``s3://BUCKET/PREFIX`` or ``gs://BUCKET/PREFIX``), of an SQLite
file, and of the Ray cluster to join."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, final
from urllib.parse import parse_qsl, urlencode

from sweeps.storage.errors import SecretError, nearest

OPTIONS = {"s3": ("region", "scheme", "endpoint_override"), "gs": ("scheme", "endpoint_override")}
"""The schemes, and the options allowed after the ``?``, as in pyarrow's `FileSystem.from_uri`."""

SQLITE = "sqlite:///"
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_SECRET = re.compile(r"key|secret|token|password|credential", re.IGNORECASE)
_LIKE = "for example s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"
_WITHOUT_SECRETS = (
    "expected an address without a key or password, which every reader of the records would "
    "see; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or better, give "
    "the machines a role with access to the bucket"
)


def is_address(storage: str) -> bool:
    """Whether this is an object store address, valid or not, instead of a folder."""
    return _ADDRESS.match(storage) is not None


@final
@dataclass(frozen=True)
class Address:
    """A prefix in a bucket; ``options`` are sorted by name."""

    scheme: str
    bucket: str
    prefix: str
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse and validate an address.

        Raises:
            ValueError: names the error and what was expected; a secret is not repeated.
        """
        place, _, query = text.partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        if "@" in place or any(_SECRET.search(name) for name in options):
            raise SecretError(f"the address contains a secret: {_WITHOUT_SECRETS}")
        scheme, _, rest = place.partition(":")
        if scheme not in OPTIONS or not rest.startswith("//"):
            raise ValueError(f"{text!r}: {_did_you_mean(scheme, rest)}")
        bucket, _, prefix = rest.removeprefix("//").partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise ValueError(
                f"{text!r}: expected a bucket name after {scheme}://, {_LIKE}; it consists "
                "of lower-case letters, digits, '-' and '.'"
            )
        parts = [part for part in prefix.split("/") if part]
        if ".." in parts or "." in parts:
            raise ValueError(f"{text!r}: expected a prefix without '.' and '..', {_LIKE}")
        for name in options:
            if name not in OPTIONS[scheme]:
                known = nearest(name, list(OPTIONS[scheme]))
                raise ValueError(f"{text!r}: unknown option '{name}' ({known})")
        return cls(scheme, bucket, "/".join(parts), tuple(sorted(options.items())))

    def __str__(self) -> str:
        query = f"?{urlencode(self.options, safe=':/')}" if self.options else ""
        return f"{self.scheme}://{self.root()}{query}"

    def root(self) -> str:
        """Bucket and prefix, the path used by pyarrow's file systems."""
        return "/".join(part for part in (self.bucket, self.prefix) if part)

    def split(self) -> tuple[Address, str]:
        """The parent address, and the name within it; the name is empty for a bucket."""
        prefix, _, name = self.prefix.rpartition("/")
        return replace(self, prefix=prefix), name

    def mirror(self) -> Path:
        """The folder of this machine's copy; the path is the same on every machine."""
        slug = re.sub(r"[^A-Za-z0-9]+", "-", self.root())[:40].strip("-")
        key = hashlib.sha256(str(self).encode()).hexdigest()[:10]
        return Path("~/.gmt-sweep/mirror").expanduser() / f"{slug}-{key}"


def is_relative(storage: str) -> bool:
    """Whether this is a folder whose path depends on the working directory."""
    return not is_address(storage) and not Path(storage).expanduser().is_absolute()


def folder_of(storage: str) -> Path:
    """The local folder of a storage: the folder itself, or the mirror of an address."""
    if is_address(storage):
        return Address.parse(storage).mirror()
    return Path(storage).expanduser().resolve()


def _did_you_mean(scheme: str, rest: str) -> str:
    meant = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}.get(scheme.lower(), scheme.lower())
    if meant in OPTIONS:
        return f"did you mean '{meant}://{rest.lstrip('/')}'?"
    known = nearest(meant, list(OPTIONS))
    return (
        f"unknown storage scheme '{scheme}://' ({known}); expected a folder or an address, {_LIKE}"
    )


def cluster_address() -> str:
    """``RAY_ADDRESS``; empty if Ray runs on this machine only, which "local" also means."""
    given = os.environ.get("RAY_ADDRESS", "").strip()
    return "" if given == "local" else given


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
