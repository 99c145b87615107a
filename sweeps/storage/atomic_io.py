"""Atomic writes: a concurrent reader sees either the whole new content or the old one."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def partial_of(path: Path) -> Path:
    """A unique temporary path beside `path`, to write its new content."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path for a file's new content, which replaces `path` at the end of the block.

    After an error or a kill, `path` has its old content.
    """
    partial = partial_of(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def atomic_write(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write `text` so that readers see all of it or the old content, also with concurrent writers.

    `mode`: permissions of a new file, before the process's umask.
    """
    with atomic_file(path) as partial:
        partial.touch(mode)
        partial.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary path for a folder, which gets its final name at the end of the block."""
    partial = partial_of(folder)
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        atomic_rename_dir(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def linked_copy(folder: Path, target: Path) -> Path:
    """Copy a folder whose files never change: as hard links, where the file system has them.

    Returns ``target``. Raises an OSError (shutil.Error, FileNotFoundError) if some of it was
    removed meanwhile.
    """
    return shutil.copytree(folder, target, copy_function=_link)


def _link(file: str, name: str) -> None:
    try:
        os.link(file, name)
    except FileNotFoundError:
        raise
    except OSError:  # not every file system supports links
        shutil.copyfile(file, name)


def atomic_rename_dir(partial: Path, folder: Path) -> None:
    """Rename a complete folder to its final name. With concurrent writers, one of them wins."""
    shutil.rmtree(folder, ignore_errors=True)  # has the same content, left by a killed process
    try:
        partial.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(partial, ignore_errors=True)
