"""The files of one prefix of a bucket, through pyarrow, which is imported when it is needed.

Trouble with an object store, as a person is told of it.
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
from sweeps.storage.atomic_io import partial_of
from sweeps.storage.errors import UserError
from sweeps.storage.interrupts import interruptible, shielded

CONNECT_SECONDS, REQUEST_SECONDS = 5.0, 30.0
ATTEMPTS = 3
"""Before a request counts as failed; who can wait longer asks again."""

_BLOCK_BYTES = 8 << 20


class StorageError(ConnectionError):
    """The object store did not answer, or refused; a sentence says what to do about it."""


@final
@dataclass(frozen=True)
class Entry:
    """A file of the store: its bytes, and when it was written (Unix nanoseconds; S3 has whole
    seconds)."""

    size: int
    modified: int


@final
class ObjectStore:
    """Whole files under a prefix. Paths are relative to it, with "/"; threads may share it.

    Every method raises `StorageError` where the store gives no good answer, and
    FileNotFoundError where there is no such file.
    """

    def __init__(self, filesystem: Any, root: str, name: str) -> None:
        """``filesystem``: pyarrow's; ``root``: a place in it; ``name``: what messages call it."""
        self._files, self._root, self.name = filesystem, root, name

    @classmethod
    def open(cls, address: Address) -> Self:
        """The store at an address; its bucket is not asked for yet, except for its region."""
        with _explained(str(address)):
            return cls(_filesystem(address), address.root(), str(address))

    def put(self, path: str, data: bytes) -> None:
        """Write a file: all of it is there, or what was there before. Ctrl-C waits for it."""
        with self._writing(path) as stream:
            stream.write(data)

    def upload(self, file: Path, path: str) -> None:
        """``put`` of a local file of any size. A disk that fails in the middle of a large one
        leaves none there."""
        with file.open("rb") as source:
            block = source.read(_BLOCK_BYTES)  # all of a small one, before there is a stream
            with self._writing(path) as stream:
                while block:
                    stream.write(block)
                    block = source.read(_BLOCK_BYTES)

    def read(self, path: str, offset: int = 0) -> bytes:
        """A file's bytes from ``offset`` on; none behind its end."""
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
        # Not `size` and `read` of the file: with gs they ask the store while no thread may run.
        with _explained(self.name), self._files.open_input_file(self._at(path)) as source:
            data = source.read_at(entry.size - offset, offset)
        return data

    def download(self, path: str, file: Path) -> None:
        """Copy a file here: all of it is there, or what was there before."""
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_of(file)
        try:
            with (
                _explained(self.name),
                self._files.open_input_stream(self._at(path)) as source,
                partial.open("wb") as target,
            ):
                shutil.copyfileobj(source, target, _BLOCK_BYTES)
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)

    def files(self, path: str = "") -> dict[str, Entry]:
        """Every file below a path, by its path from the root; none where nothing is."""
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
        """A file's entry; None where there is none."""
        from pyarrow.fs import FileType

        with _explained(self.name):
            (info,) = self._files.get_file_info([self._at(path)])
        return Entry(info.size, info.mtime_ns) if info.type == FileType.File else None

    def remove(self, path: str) -> None:
        """Remove a file; harmless where there is none."""
        with suppress(FileNotFoundError), _explained(self.name):
            self._files.delete_file(self._at(path))

    def remove_tree(self, path: str) -> None:
        """Remove every file below a path; harmless where there is none."""
        if not self.files(path):  # which with gs is no FileNotFoundError below
            return
        with suppress(FileNotFoundError), _explained(self.name):
            self._files.delete_dir(self._at(path))

    def check(self) -> None:
        """Write, read and remove a file, so that whoever starts knows that it can."""
        word = f".probe-{uuid.uuid4().hex}"
        self.put(word, word.encode())
        read = self.read(word)
        self.remove(word)
        if read != word.encode():
            raise StorageError(f"storage {self.name}: what was written there is not read again")

    @contextmanager
    def _writing(self, path: str) -> Iterator[Any]:
        """A file's stream. pyarrow publishes what a stream has when it is closed, or dropped, also
        after an error: so no signal comes in between, and what an error cut is removed."""
        with interruptible(), shielded(), _explained(self.name):
            try:
                stream = self._files.open_output_stream(self._at(path))
            except FileNotFoundError as error:  # with gs; an object needs no folder
                raise OSError(str(error)) from None
            try:
                yield stream
            except Exception:
                stream.close()  # raises where the store failed, which then has nothing new
                self._files.delete_file(self._at(path))
                raise
            stream.close()

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root


_MEANINGS = (
    (
        ("NO_SUCH_BUCKET", "not found", "NOT_FOUND"),
        "there is no such bucket; expected one that exists",
    ),
    (
        (
            "ACCESS_DENIED",
            "INVALID_ACCESS_KEY_ID",
            "SIGNATURE",
            "FORBIDDEN",
            "UNAUTHENTICATED",
            "PERMISSION_DENIED",
            "credentials",
            "access token",
        ),
        "the credentials of this machine are missing, or may not read, write, list and delete "
        "there; expected a role for the machine, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
        "(gs: GOOGLE_APPLICATION_CREDENTIALS) in the environment",
    ),
    (("NETWORK_CONNECTION", "curlCode", "UNAVAILABLE"), "it does not answer"),
)
"""Words of the services' errors, and what to tell a person."""

_SAID = 300
"""Characters of what a service says that are repeated, its last ones."""

_GOOGLES_OWN = re.compile(r"original-message=(.+?)\}\}")
"""The error in the midst of what Google's client says about its tries."""


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """An error of the service as a sentence. Errors of this machine's own disk have a number."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno is not None or isinstance(error, StorageError):
            raise
        said = " ".join(str(error).split())
        meaning = next(
            (then for words, then in _MEANINGS if any(word in said for word in words)), ""
        )
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
        allow_delayed_open=True,  # one request for a small file
        **options,
    )


def _endpoint() -> dict[str, str]:
    """Of a service that is not Amazon's, as Amazon's own tools are told of it."""
    given = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not given:
        return {}
    scheme, _, place = given.rstrip("/").rpartition("://")
    return {"endpoint_override": place, "scheme": scheme or "https"}


@contextmanager
def as_user_error() -> Iterator[None]:
    """A store that gives no good answer is a sentence.

    Raises:
        UserError: with what the `StorageError` says.
    """
    try:
        yield
    except StorageError as error:
        raise UserError(str(error)) from None
