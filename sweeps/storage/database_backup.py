"""The studies' database on a cluster: live on the driver's own disk, with a copy in the storage.

SQLite needs locks, which network file systems implement unreliably and object stores lack. If the
head node and its disk are lost, the studies are restored from the copy.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from sweeps.storage.atomic_io import atomic_file, atomic_write
from sweeps.storage.errors import UserError
from sweeps.storage.outages import TROUBLE, repeated

BEAT_SECONDS = 2.0
"""If the head is lost, at most the records of this period are lost, and no checkpoints."""

Deliver = Callable[[], None]


def nothing() -> None:
    """Do nothing: every machine can read the copy where it is."""


@contextmanager
def kept(
    live: Path, copy: Path, say: Callable[[str], None], *, deliver: Deliver = nothing
) -> Iterator[None]:
    """Restore the database if necessary; back it up during the block and at its end.

    ``deliver``: puts the copy where other machines find it, if that is not its folder.

    Raises:
        UserError: the copy is not a valid database, or the last backup failed.
    """
    if live == copy:
        yield
        return
    live.parent.mkdir(parents=True, exist_ok=True)
    restore(live, copy)
    with closing(sqlite3.connect(live)) as connection:
        connection.execute("pragma journal_mode = wal")  # backups do not block writers
    seen: tuple[int, ...] = ()

    def copy_changes() -> None:
        nonlocal seen
        if (now := _state(live)) != seen:
            backup(live, copy, deliver)
            seen = now

    def complain(error: Exception) -> None:
        say(f"the records' copy {copy} could not be written ({error}); retrying")

    try:
        with repeated(copy_changes, BEAT_SECONDS, complain):
            yield
    except BaseException:
        with suppress(*TROUBLE):  # report the error that ended the sweep instead
            backup(live, copy, deliver)
        raise
    try:
        backup(live, copy, deliver)
    except ConnectionError:
        return  # the driver sends the copy again when it ends
    except TROUBLE as error:
        raise UserError(
            f"the copy {copy} of the sweep's records could not be written ({error}). Nothing is "
            f"lost: they are in {live}. Free disk space and run the same command here again"
        ) from error


def restore(live: Path, copy: Path) -> bool:
    """Restore ``live`` from the copy if the copy is newer; returns whether it was.

    A copy that was not written from ``live`` comes from a driver that continued on another
    machine, so it is newer. The file here is then kept as ``.superseded``.

    Raises:
        UserError: the copy is not a valid database.
    """
    if not copy.exists():
        return False
    if live.exists() and _digest(copy) in _marked(live):
        return False
    _check_whole(copy)
    if live.exists():
        live.replace(live.with_suffix(".superseded"))
    for left in ("-wal", "-shm", "-journal"):  # they belong to the replaced file
        live.with_name(live.name + left).unlink(missing_ok=True)
    shutil.copyfile(copy, live)
    _mark(live, _digest(copy))
    return True


def _check_whole(copy: Path) -> None:
    try:
        # Immutable: the file is only ever replaced, and locks fail on network file systems.
        place = f"{copy.absolute().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(place, uri=True)) as opened:
            (said,) = opened.execute("pragma quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        raise UserError(
            f"the copy {copy} of the sweep's records cannot be read ({error}): check that the "
            "storage responds, and try again"
        ) from None
    except sqlite3.DatabaseError as error:
        said = str(error)
    if not copy.stat().st_size:
        said = "it is empty"
    if said != "ok":
        raise UserError(
            f"the copy {copy} of the sweep's records is not a valid database ({said}). The "
            "machine that ran the sweep last has the records on its own disk: remove "
            f"{copy.name} from the sweep's folder in the storage, then run the same command "
            "there to continue"
        )


def backup(live: Path, copy: Path, deliver: Deliver = nothing) -> None:
    """Atomically replace the copy by a consistent backup, even while others write."""
    if not live.exists():
        return
    whole = live.with_suffix(".whole")
    with closing(sqlite3.connect(live)) as source, closing(sqlite3.connect(whole)) as target:
        source.backup(target)
        target.execute("pragma journal_mode = delete")  # WAL works on local disks only
    digest = _digest(whole)
    with atomic_file(copy) as arriving:
        shutil.copyfile(whole, arriving)
        # After a kill or an outage before the next mark, the storage may have any of these copies.
        _mark(live, *dict.fromkeys([*_marked(live), digest]))
    deliver()
    _mark(live, digest)
    whole.unlink()


def _state(live: Path) -> tuple[int, ...]:
    """A value that changes with every write."""
    files = [path for path in (live, live.with_name(live.name + "-wal")) if path.exists()]
    return tuple(
        value for path in files for value in (path.stat().st_mtime_ns, path.stat().st_size)
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _marks(live: Path) -> Path:
    return live.with_suffix(".copied")


def _marked(live: Path) -> list[str]:
    """The digests of copies that were written from ``live``."""
    return _marks(live).read_text().split() if _marks(live).exists() else []


def _mark(live: Path, *digests: str) -> None:
    atomic_write(_marks(live), "\n".join(digests))
