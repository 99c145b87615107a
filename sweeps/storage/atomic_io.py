"""Files and folders that others may read at any moment: all of one, or what was there before."""

from __future__ import annotations

import errno
import shutil
import uuid
from pathlib import Path


def partial_of(path: Path) -> Path:
    """Where what is to lie at `path` is written: beside it, a name that no other writer has."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")


def atomic_write(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write `text` so that who reads `path` finds all of it or what was there before, also after
    a kill and where two write at once. `mode`: of a new file, less the process's umask."""
    partial = partial_of(path)
    try:
        partial.touch(mode)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def atomic_rename_dir(partial: Path, folder: Path) -> None:
    """Give a folder that is whole its name. Where two processes write the same one at once, one of
    them does."""
    shutil.rmtree(folder, ignore_errors=True)  # of the same content, written before a kill
    try:
        partial.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(partial, ignore_errors=True)
