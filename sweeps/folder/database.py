"""The studies' database on a cluster: live on the driver's own disk, a copy of it in the storage.

Sqlite wants locks that network file systems do not keep well, and an object store has none. The
copy is what brings the studies back when the head, and its disk, are gone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

BEAT_SECONDS = 2.0
"""What a lost head can cost at most: the records of this time, and no trial's checkpoint."""


@contextmanager
def kept(live: Path, copy: Path) -> Iterator[None]:
    """Bring the database back if need be, and copy it on while the block runs, and at its end."""
    if live == copy:
        yield
        return
    live.parent.mkdir(parents=True, exist_ok=True)
    bring_back(live, copy)
    with closing(sqlite3.connect(live)) as connection:
        connection.execute("pragma journal_mode = wal")  # who copies holds up nobody who writes
    stopping = threading.Event()

    def beat() -> None:
        seen: tuple[int, ...] = ()
        while not stopping.wait(BEAT_SECONDS):
            if (now := _state(live)) != seen:
                copy_out(live, copy)
                seen = now

    thread = threading.Thread(target=beat, name="database", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        if live.exists():
            copy_out(live, copy)


def bring_back(live: Path, copy: Path) -> bool:
    """Make ``live`` the newest there is; True when that was the copy.

    A copy that this disk did not write comes from a driver that went on elsewhere: then it is the
    newer one, and what lies here is set aside.
    """
    if not copy.exists() or (live.exists() and _mark(live) == _digest(copy)):
        return False
    if live.exists():
        live.replace(live.with_suffix(".superseded"))
    for left in ("-wal", "-shm", "-journal"):  # they belong to the file that is gone
        live.with_name(live.name + left).unlink(missing_ok=True)
    shutil.copyfile(copy, live)
    _marks(live).write_text(_digest(copy))
    return True


def copy_out(live: Path, copy: Path) -> None:
    """Replace the copy, whole at every moment, by a consistent one, whoever writes meanwhile."""
    own = f".{os.getpid()}"  # a second driver beside this one copies too
    whole, arriving = live.with_suffix(own), copy.with_suffix(own)
    with closing(sqlite3.connect(live)) as source, closing(sqlite3.connect(whole)) as target:
        source.backup(target)
        target.execute("pragma journal_mode = delete")  # the other mode is for local disks only
    shutil.copyfile(whole, arriving)
    arriving.replace(copy)
    _marks(live).write_text(_digest(whole))
    whole.unlink()


def _state(live: Path) -> tuple[int, ...]:
    """Changes with every write."""
    files = [path for path in (live, live.with_name(live.name + "-wal")) if path.exists()]
    return tuple(
        value for path in files for value in (path.stat().st_mtime_ns, path.stat().st_size)
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _marks(live: Path) -> Path:
    return live.with_suffix(".copied")


def _mark(live: Path) -> str:
    return _marks(live).read_text() if _marks(live).exists() else ""
