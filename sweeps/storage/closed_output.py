"""Standard streams that nobody reads any more: a closed terminal, `| head -1`, `>&-`."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast, final


@contextmanager
def ignore_broken_pipe(stream: TextIO | None = None) -> Iterator[None]:
    """What is printed to a terminal that was closed, or a pipe nobody reads, is dropped, and so
    is all that follows: the sweep goes on. ``stream``: standard output by default."""
    try:
        yield
    except OSError as error:
        _silence(stream or sys.stdout, error)


def _silence(stream: TextIO, error: OSError) -> None:
    if error.errno not in (errno.EPIPE, errno.EIO):
        raise error
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())  # Python prints what is left at its end
    os.close(nowhere)


@final
class _HeardStream:
    """Drops what nobody reads, as `ignore_broken_pipe`; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.is_heard = stream, True

    def write(self, text: str) -> int:
        """Write, or drop where nobody reads."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """As ``write``."""
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as error:
            _silence(self._stream, error)
            self.is_heard = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def heard(stream: TextIO) -> TextIO:
    """The stream for a program that goes on when nobody reads; rich would end it."""
    return cast(TextIO, _HeardStream(stream))


def is_heard(stream: object) -> bool:
    """Whether somebody may still read what is written to a `heard` stream, or to any other."""
    return not isinstance(stream, _HeardStream) or stream.is_heard


@contextmanager
def heard_program() -> Iterator[None]:
    """Standard output and error as `heard` has them: no command ends by them, or with another exit
    code. All three streams are there, although a shell can close them: else the next file that is
    opened, such as a database, would get the number, and with it all that is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (heard(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout.flush()  # else Python does it, and says what it meets
        sys.stdout, sys.stderr = before
