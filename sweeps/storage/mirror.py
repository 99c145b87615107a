"""Synchronize a sweep's folder on this machine with its folder in an object store."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import final
from urllib.parse import quote, unquote

from filelock import FileLock

from sweeps.storage.atomic_io import atomic_write
from sweeps.storage.object_store import Entry, ObjectStore
from sweeps.storage.trial_files import DATABASE, is_drivers, trial_of

DOOMED = ".doomed"
"""In a sweep's folder: names of files and folders to remove from the store."""

_INDEX, _LOCK, _AT_ONCE = ".mirror.json", ".mirror.lock", 16

State = tuple[int, int]
"""A file's modification time (ns) and size."""

Index = dict[str, tuple[State, Entry]]
"""Files that were equal on both sides when last copied: their state here and in the store."""

Check = Callable[[], None]
"""Called before each change of the store; raises if the change is not allowed."""


def _allowed() -> None:
    """Allow every change: no other machine uses the sweep."""


@final
class Mirror:
    """Copies the driver's files (`trial_files.is_drivers`) in either direction.

    The store is authoritative: a file changed on both sides is taken from there. Any process of
    this machine may use the mirror; a lock serializes them. Every method raises `StorageError` if
    the store does not respond.
    """

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        """``folder``: the sweep's folder, which has the same name in the store."""
        self.store, self.folder, self._name = store, folder, folder.name

    def exists(self) -> bool:
        """Whether the sweep was ever run: some of its files are here or in the store."""
        return self.folder.is_dir() or bool(self._remote())

    def pull(self) -> None:
        """Make the folder equal to the store; of trials' folders, only the driver's files."""
        remote = self._remote()
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._turn():
            index = self._read_index()
            theirs = {p: e for p, e in remote.items() if is_drivers(PurePosixPath(p))}
            changed = [p for p, entry in theirs.items() if not self._has(p, entry, index)]
            gone = [path for path in index if path not in theirs]
            database = (
                [DATABASE] if DATABASE in remote else []
            )  # may differ with equal size and time
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(self._download, [*changed, *database]))
            for path in changed:
                index[path] = (_state(self.folder / path), theirs[path])
            if not database:  # a driver on this machine keeps its records in another file
                (self.folder / DATABASE).unlink(missing_ok=True)
            for path in gone:
                (self.folder / path).unlink(missing_ok=True)
                del index[path]
            for trial in {trial_of(PurePosixPath(path)) for path in remote} - {None}:
                (self.folder / str(trial)).mkdir(parents=True, exist_ok=True)
            self._write_index(index)

    def push(self, check: Check = _allowed) -> None:
        """Upload what changed here, and remove from the store what was removed here."""
        with self._turn():
            index = self._read_index()
            before = dict(index)
            try:
                self._push_changes(index, check)
            finally:
                if index != before:
                    self._write_index(index)
            self._remove_doomed(check)

    def push_database(self) -> None:
        """Upload the copy of the database, which is consistent at every moment."""
        with self._turn():
            self.store.upload(self.folder / DATABASE, self._at(DATABASE))

    def tail(self, file: Path) -> None:
        """Download the new lines of an append-only file in the folder."""
        path = self._at(file.relative_to(self.folder).as_posix())
        entry = self.store.stat(path)
        if entry is None:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".tail.lock"):
            here = file.stat().st_size if file.exists() else 0
            if entry.size < here:  # a lost attempt had written more than was uploaded
                here = 0
                file.unlink()
            if entry.size > here:
                with file.open("ab") as stream:
                    stream.write(self.store.read(path, here))

    def copy_tree(self, folder: Path, target: Path) -> bool:
        """Download a folder of the sweep from the store; returns whether it had any files."""
        start = self._at(folder.relative_to(self.folder).as_posix())
        found = self.store.files(start)
        for path in found:
            self.store.download(path, target / path.removeprefix(f"{start}/"))
        return bool(found)

    def schedule_delete(self, folder: Path) -> None:
        """Let the next ``push`` remove this file or folder from the store."""
        home = self.folder / DOOMED
        home.mkdir(exist_ok=True)
        (home / quote(folder.relative_to(self.folder).as_posix(), safe="")).touch()

    def _push_changes(self, index: Index, check: Check) -> None:
        found = set()
        for path, file in self._own_files():
            found.add(path)
            try:
                state = _state(file)
                if path in index and index[path][0] == state:
                    continue
                check()
                self.store.upload(file, self._at(path))
            except FileNotFoundError:  # has just been removed
                continue
            entry = self.store.stat(self._at(path))
            if entry is not None:
                index[path] = (state, entry)
        for path in index.keys() - found:
            check()
            self.store.remove(self._at(path))
            del index[path]

    def _remove_doomed(self, check: Check) -> None:
        marks = list((self.folder / DOOMED).glob("*"))
        if not marks:
            return
        there = self._remote()
        for mark in marks:
            check()
            path = unquote(mark.name)
            if path in there:
                self.store.remove(self._at(path))
            if any(each.startswith(f"{path}/") for each in there):
                self.store.remove_tree(self._at(path))
            mark.unlink(missing_ok=True)

    def _own_files(self) -> Iterator[tuple[str, Path]]:
        for parent, _, names in os.walk(self.folder):
            here = PurePosixPath(Path(parent).relative_to(self.folder).as_posix())
            for name in names:
                if is_drivers(here / name):
                    yield (here / name).as_posix(), Path(parent, name)

    def _has(self, path: str, entry: Entry, index: Index) -> bool:
        """Whether the store's version is here; a file removed by hand is not, and is restored."""
        return path in index and index[path][1] == entry and (self.folder / path).exists()

    def _download(self, path: str) -> None:
        self.store.download(self._at(path), self.folder / path)

    def _remote(self) -> dict[str, Entry]:
        start = len(self._name) + 1
        return {path[start:]: entry for path, entry in self.store.files(self._name).items()}

    def _at(self, path: str) -> str:
        return f"{self._name}/{path}"

    def _turn(self) -> FileLock:
        return FileLock(self.folder / _LOCK)

    def _read_index(self) -> Index:
        try:
            read = json.loads((self.folder / _INDEX).read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return {path: ((a, b), Entry(c, d)) for path, (a, b, c, d) in read.items()}

    def _write_index(self, index: Index) -> None:
        flat = {p: (*state, entry.size, entry.modified) for p, (state, entry) in index.items()}
        atomic_write(self.folder / _INDEX, json.dumps(flat))


def _state(file: Path) -> State:
    found = file.stat()
    return found.st_mtime_ns, found.st_size
