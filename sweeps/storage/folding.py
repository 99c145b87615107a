"""Break lines between words where a terminal would break them anywhere."""

from __future__ import annotations

import shutil
import textwrap
from typing import TextIO


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
