"""Trouble with an object store, as a person is told of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sweeps.errors import UserError
from sweeps.storage.object_store import StorageError


@contextmanager
def told() -> Iterator[None]:
    """A store that gives no good answer is a sentence.

    Raises:
        UserError: with what the `StorageError` says.
    """
    try:
        yield
    except StorageError as error:
        raise UserError(str(error)) from None
