"""Read and write the files under one prefix of a bucket, through pyarrow.

pyarrow is imported on first use. Errors of the service are translated into plain sentences.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, final

from sweeps.storage.address import Address
from sweeps.storage.atomic_io import atomic_file
from sweeps.storage.errors import UserError
from sweeps.storage.interrupts import interruptible, shielded

CONNECT_SECONDS, REQUEST_SECONDS = 5.0, 30.0
ATTEMPTS = 3
"""How often a request is tried; callers that can wait longer retry themselves."""

_BLOCK_BYTES = 8 << 20


class StorageError(ConnectionError):
    """The object store did not respond or rejected a request; the message says how to fix it."""


@final
class SupersededError(StorageError):
    """Another process has taken over, so this one must not write any more."""


@final
@dataclass(frozen=True)
class Entry:
    """A file in the store: size in bytes, and modification time in Unix nanoseconds.

    S3 times have whole seconds.
    """

    size: int
    modified: int


@final
class ObjectStore:
    """Reads and writes whole files under a prefix. Thread-safe.

    Paths are relative to the prefix, with "/". Every method raises `StorageError` if the store
    fails and FileNotFoundError if the file does not exist.
    """

    def __init__(self, filesystem: Any, root: str, name: str) -> None:
        """``filesystem``: pyarrow's; ``root``: a path in it; ``name``: used in messages."""
        self._files, self._root, self.name = filesystem, root, name

    @classmethod
    def open(cls, address: Address) -> Self:
        """The store at an address; sends no request, except to find a bucket's region."""
        with _explained(str(address)):
            return cls(_filesystem(address), address.root(), str(address))

    def put(self, path: str, data: bytes) -> None:
        """Write a file atomically; Ctrl-C is delayed until it is written."""
        with self._writing(path) as stream:
            stream.write(data)

    def upload(self, file: Path, path: str) -> None:
        """Upload a local file of any size, like ``put``.

        If reading a large file fails midway, nothing is left in the store.
        """
        with file.open("rb") as source:
            block = source.read(_BLOCK_BYTES)  # read a small file whole before opening a stream
            with self._writing(path) as stream:
                while block:
                    stream.write(block)
                    block = source.read(_BLOCK_BYTES)

    def read(self, path: str, offset: int = 0) -> bytes:
        """A file's bytes from ``offset`` on; empty beyond its end."""
        data: bytes
        if not offset:
            with _explained(self.name), self._files.open_input_stream(self._at(path)) as source:
                data = source.read()
            return data
        entry = self.stat(path)
        if entry is None:
            raise FileNotFoundError(path)
        if offset >= entry.size:
            return b""
        # `size` and `read` of the file would, with gs, send requests while holding the GIL.
        with _explained(self.name), self._files.open_input_file(self._at(path)) as source:
            data = source.read_at(entry.size - offset, offset)
        return data

    def download(self, path: str, file: Path) -> None:
        """Download a file atomically."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with (
            atomic_file(file) as partial,
            _explained(self.name),
            self._files.open_input_stream(self._at(path)) as source,
            partial.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, _BLOCK_BYTES)

    def files(self, path: str = "") -> dict[str, Entry]:
        """Every file below a path, keyed by its path from the root; empty if there is none."""
        from pyarrow.fs import FileSelector, FileType

        place = self._at(path)
        with _explained(self.name):
            chosen = FileSelector(place, recursive=True, allow_not_found=True)
            found = self._files.get_file_info(chosen)
        start = len(self._root) + 1
        return {
            info.path[start:]: Entry(info.size, info.mtime_ns)
            for info in found
            if info.type == FileType.File and not info.path.endswith("/")
        }

    def stat(self, path: str) -> Entry | None:
        """A file's entry; None if it does not exist."""
        from pyarrow.fs import FileType

        with _explained(self.name):
            (info,) = self._files.get_file_info([self._at(path)])
        return Entry(info.size, info.mtime_ns) if info.type == FileType.File else None

    def remove(self, path: str) -> None:
        """Remove a file; a missing file is no error."""
        with suppress(FileNotFoundError), _explained(self.name):
            self._files.delete_file(self._at(path))

    def remove_tree(self, path: str) -> None:
        """Remove every file below a path; a missing path is no error."""
        if not self.files(path):  # with gs, no FileNotFoundError would be raised below
            return
        with suppress(FileNotFoundError), _explained(self.name):
            self._files.delete_dir(self._at(path))

    def check(self) -> None:
        """Write, read and remove a file, to find access errors before a sweep starts."""
        word = f".probe-{uuid.uuid4().hex}"
        self.put(word, word.encode())
        read = self.read(word)
        self.remove(word)
        if read != word.encode():
            raise StorageError(
                f"storage {self.name}: the data read back differ from the data written"
            )

    @contextmanager
    def _writing(self, path: str) -> Iterator[Any]:
        """A stream to a file, written completely or not at all.

        pyarrow publishes a stream's data when it is closed or dropped, even after an error.
        Signals are therefore delayed, and a truncated file is removed.
        """
        with interruptible(), shielded(), _explained(self.name):
            try:
                stream = self._files.open_output_stream(self._at(path))
            except FileNotFoundError as error:  # raised by gs; an object needs no folder
                raise OSError(str(error)) from None
            try:
                yield stream
            except Exception:
                stream.close()  # raises if the store failed, which then has no new file
                self._files.delete_file(self._at(path))
                raise
            stream.close()

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root


_MEANINGS = {
    "NO_SUCH_BUCKET|not found|NOT_FOUND": "no such bucket; expected one that exists",
    "ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE|FORBIDDEN|UNAUTHENTICATED|PERMISSION_DENIED"
    "|credentials|access token": (
        "the credentials of this machine are missing or lack permission to read, write, list or "
        "delete; expected a role for the machine, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
        "(gs: GOOGLE_APPLICATION_CREDENTIALS) in the environment"
    ),
    "NETWORK_CONNECTION|curlCode|UNAVAILABLE": "it does not respond",
}
"""Words in the services' errors (regular expressions), and what they mean."""

_SAID = 300
"""How many of the last characters of a service's error are repeated."""

_GOOGLES_OWN = re.compile(r"original-message=(.+?)\}\}")
"""The original error within the retry message of Google's client."""


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Translate a service's error into a sentence; errors of the local disk have an errno."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno is not None or isinstance(error, StorageError):
            raise
        said = " ".join(str(error).split())
        meaning = next((then for words, then in _MEANINGS.items() if re.search(words, said)), "")
        if theirs := _GOOGLES_OWN.search(said):
            said = theirs[1]
        if len(said) > _SAID:
            said = f"... {said[-_SAID:].partition(' ')[2]}"
        told = f"{meaning} ({said})" if meaning else said
        raise StorageError(f"storage {name}: {told}") from None


def _filesystem(address: Address) -> Any:
    import pyarrow.fs

    options = dict(address.options)
    if address.scheme == "gs":
        limit = timedelta(seconds=REQUEST_SECONDS / ATTEMPTS)
        return pyarrow.fs.GcsFileSystem(retry_time_limit=limit, **options)
    if "endpoint_override" not in options:
        options = _endpoint() | options
    region = options.pop("region", None)
    if region is None and "endpoint_override" in options:
        region = os.environ.get("AWS_DEFAULT_REGION", "us-east-1")
    return pyarrow.fs.S3FileSystem(
        region=region or pyarrow.fs.resolve_s3_region(address.bucket),
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        allow_delayed_open=True,  # a small file takes one request
        **options,
    )


def _endpoint() -> dict[str, str]:
    """The endpoint of an S3-compatible service, from the variables of the AWS tools."""
    given = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not given:
        return {}
    scheme, _, place = given.rstrip("/").rpartition("://")
    return {"endpoint_override": place, "scheme": scheme or "https"}


@contextmanager
def as_user_error() -> Iterator[None]:
    """Turn a `StorageError` into a `UserError`.

    Raises:
        UserError: with the message of the `StorageError`.
    """
    try:
        yield
    except StorageError as error:
        raise UserError(str(error)) from None
