"""A sweep's folder in an object store, and its copy on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import final

from filelock import FileLock

from sweeps.storage.object_store import Entry, ObjectStore
from sweeps.storage.trial_files import DATABASE, is_drivers, trial_of

_AT_ONCE = 16


@final
class RemoteFolder:
    """Copies the driver's files (`trial_files.is_drivers`); the newer version of a file counts.

    A downloaded file has the store's modification time. Every method raises `StorageError` if the
    store does not respond.
    """

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        """``folder``: the sweep's folder, which has the same name in the store."""
        self.store, self.folder, self.name = store, folder, folder.name
        self._uploaded: dict[str, int] = {}  # modification times of files that are in the store

    def exists(self) -> bool:
        """Whether the sweep was ever run: some of its files are here or in the store."""
        return self.folder.is_dir() or bool(self.store.files(self.name))

    def download(self) -> None:
        """Download newer files of the driver, and the database; create the trials' folders."""
        listed = self.store.files(self.name).items()
        found = {PurePosixPath(path).relative_to(self.name): entry for path, entry in listed}
        self.folder.mkdir(parents=True, exist_ok=True)
        for trial in {trial_of(path) for path in found} - {None}:
            (self.folder / str(trial)).mkdir(parents=True, exist_ok=True)
        drivers = {path: entry for path, entry in found.items() if is_drivers(path)}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._download_newer, drivers, drivers.values()))
        if PurePosixPath(DATABASE) in found:  # another version may have the same time
            self.store.download(self._at(DATABASE), self.folder / DATABASE)
        else:  # a driver on this machine keeps its records in another file
            (self.folder / DATABASE).unlink(missing_ok=True)

    def upload(self, check: Callable[[], object]) -> None:
        """Upload what changed here. ``check``: called before each upload; raises if this process
        may not write."""
        for path, file in self._drivers_files():
            with suppress(FileNotFoundError):  # has just been removed
                modified = file.stat().st_mtime_ns
                if self._uploaded.get(str(path)) != modified:
                    check()
                    self.store.upload(file, self._at(path))
                    self._uploaded[str(path)] = modified

    def upload_database(self) -> None:
        """Upload the copy of the database, which is consistent at every moment."""
        self.store.upload(self.folder / DATABASE, self._at(DATABASE))

    def download_lines(self, file: Path) -> None:
        """Download the new lines of an append-only file in the folder."""
        path = self._at(self._path_of(file))
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

    def download_tree(self, folder: Path, target: Path) -> bool:
        """Download a folder of the sweep from the store; returns whether it had any files."""
        start = self._at(self._path_of(folder))
        found = self.store.files(start)
        for path in found:
            self.store.download(path, target / path.removeprefix(f"{start}/"))
        return bool(found)

    def files_below(self, folder: Path) -> list[PurePosixPath]:
        """The files of a folder of the sweep in the store, by their paths in it."""
        start = self._at(self._path_of(folder))
        return [PurePosixPath(path).relative_to(start) for path in self.store.files(start)]

    def copy_tree(self, folder: Path, target: Path, last: str) -> None:
        """Copy a folder of the sweep within the store, the files named ``last`` at the end.

        Raises:
            FileNotFoundError: one of its files was removed meanwhile.
        """
        start, end = (self._at(self._path_of(place)) for place in (folder, target))
        files = sorted(self.files_below(folder), key=lambda path: path.name == last)
        if not files or files[-1].name != last:
            raise FileNotFoundError(str(folder))
        with TemporaryDirectory() as scratch:
            for path in files:
                self.store.download(f"{start}/{path}", Path(scratch) / path)
                self.store.upload(Path(scratch) / path, f"{end}/{path}")

    def remove(self, paths: Collection[Path]) -> None:
        """Remove these files and folders from the store."""
        doomed = {PurePosixPath(self._at(self._path_of(path))) for path in paths}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(self.store.files, {str(path.parent) for path in doomed}))
        for name in chain.from_iterable(found):
            path = PurePosixPath(name)
            if not doomed.isdisjoint((path, *path.parents)):
                self.store.remove(name)

    def _download_newer(self, path: PurePosixPath, entry: Entry) -> None:
        file = self.folder / path
        with suppress(FileNotFoundError):  # has just been removed
            if not file.exists() or file.stat().st_mtime_ns < entry.modified:
                self.store.download(self._at(path), file)
                os.utime(file, ns=(entry.modified, entry.modified))
            if file.stat().st_mtime_ns == entry.modified:  # otherwise it was changed here
                self._uploaded[str(path)] = entry.modified

    def _drivers_files(self) -> list[tuple[PurePosixPath, Path]]:
        files = [Path(parent, name) for parent, _, names in os.walk(self.folder) for name in names]
        found = [(self._path_of(file), file) for file in files]
        return [(path, file) for path, file in found if is_drivers(path)]

    def _path_of(self, file: Path) -> PurePosixPath:
        return PurePosixPath(file.relative_to(self.folder).as_posix())

    def _at(self, path: PurePosixPath | str) -> str:
        return f"{self.name}/{path}"
