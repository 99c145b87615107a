"""Output to a terminal: folded between words, and dropped once closed (`| head -1`, `>&-`)."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast, final


@final
class _HeardStream:
    """A stream that drops output once its terminal or pipe is closed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.is_heard = stream, True

    def write(self, text: str) -> int:
        """Write, or drop the text if the stream is closed."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush, with errors handled like those of ``write``."""
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # Python flushes the rest at exit
            os.close(nowhere)
            self.is_heard = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def heard(stream: TextIO) -> TextIO:
    """The stream for a program that continues when it is closed; rich would exit otherwise."""
    return cast(TextIO, _HeardStream(stream))


def is_heard(stream: object) -> bool:
    """Whether the stream may still have a reader; always true unless it comes from `heard`."""
    return not isinstance(stream, _HeardStream) or stream.is_heard


@contextmanager
def heard_program() -> Iterator[None]:
    """Wrap standard output and error with `heard`, so closing them does not change the exit code.

    Streams closed by the shell are replaced by /dev/null. Otherwise the next opened file, such as
    a database, would get the descriptor and receive everything printed.
    """
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
        sys.stdout.flush()  # otherwise Python flushes at exit and prints any error
        sys.stdout, sys.stderr = before


def folded(text: str, width: int) -> str:
    """The text in lines of at most ``width`` columns, broken between words.

    A word that is longer, such as a path, stays whole.
    """
    return "\n".join(_folded(line, width) for line in text.split("\n"))


def fitted(text: str, stream: TextIO) -> str:
    """The text as a stream takes it: folded if it is a terminal."""
    return folded(text, shutil.get_terminal_size().columns) if stream.isatty() else text


def _folded(line: str, width: int) -> str:
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return textwrap.fill(
        line,
        width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        expand_tabs=False,
    )
