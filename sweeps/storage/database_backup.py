"""The studies' database on a cluster: live on the driver's own disk, a copy of it in the storage.

Sqlite wants locks that network file systems do not keep well, and an object store has none. The
copy is what brings the studies back when the head, and its disk, are gone.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from sweeps.storage.atomic_io import atomic_write
from sweeps.storage.errors import UserError

BEAT_SECONDS = 2.0
"""What a lost head can cost at most: the records of this time, and no trial's checkpoint."""


Deliver = Callable[[], None]


def nothing() -> None:
    """The copy lies where all look for it."""


@contextmanager
def kept(
    live: Path,
    copy: Path,
    say: Callable[[str], None],
    *,
    deliver: Deliver = nothing,
) -> Iterator[None]:
    """Bring the database back if need be, and copy it on while the block runs, and at its end.

    ``deliver``: puts the copy where other machines find it, if that is not its folder.

    Raises:
        UserError: the copy is no whole database; or at the end it could not be written.
    """
    if live == copy:
        yield
        return
    live.parent.mkdir(parents=True, exist_ok=True)
    restore(live, copy)
    with closing(sqlite3.connect(live)) as connection:
        connection.execute("pragma journal_mode = wal")  # who copies holds up nobody who writes
    try:
        with _copied_on(live, copy, say, deliver):
            yield
    except BaseException:
        with suppress(*_TROUBLE):  # what ends the sweep says more than this
            backup(live, copy, deliver)
        raise
    try:
        backup(live, copy, deliver)
    except ConnectionError:
        return  # its driver sends the copy again as it ends
    except _TROUBLE as error:
        raise UserError(
            f"the copy {copy} of the sweep's records could not be written ({error}). Nothing is "
            f"lost, they are in {live}: make room there, and the same command here writes it"
        ) from error


_TROUBLE = (OSError, sqlite3.Error)


@contextmanager
def _copied_on(
    live: Path, copy: Path, say: Callable[[str], None], deliver: Deliver
) -> Iterator[None]:
    """Copy the database out after every change; trouble with it is said once, and passes."""
    stopping = threading.Event()

    def beat() -> None:
        seen: tuple[int, ...] = ()
        complained = False
        while not stopping.wait(BEAT_SECONDS):
            try:
                if (now := _state(live)) != seen:
                    backup(live, copy, deliver)
                    seen = now
            except _TROUBLE as error:
                if not complained:
                    say(f"the records' copy {copy} could not be written ({error}); tried again")
                complained = True

    thread = threading.Thread(target=beat, name="database", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def restore(live: Path, copy: Path) -> bool:
    """Make ``live`` the newest there is; True when that was the copy.

    A copy that this disk did not write comes from a driver that went on elsewhere: then it is the
    newer one, and what lies here is set aside.

    Raises:
        UserError: that copy is no whole database.
    """
    if not copy.exists():
        return False
    if live.exists() and _digest(copy) in _marked(live):
        return False
    _check_whole(copy)
    if live.exists():
        live.replace(live.with_suffix(".superseded"))
    for left in ("-wal", "-shm", "-journal"):  # they belong to the file that is gone
        live.with_name(live.name + left).unlink(missing_ok=True)
    shutil.copyfile(copy, live)
    _mark(live, _digest(copy))
    return True


def _check_whole(copy: Path) -> None:
    try:
        # Immutable: it is only ever replaced, and on network file systems locks fail.
        place = f"{copy.absolute().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(place, uri=True)) as opened:
            (said,) = opened.execute("pragma quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        raise UserError(
            f"the copy {copy} of the sweep's records cannot be read ({error}): see that the "
            "storage answers, and try again"
        ) from None
    except sqlite3.DatabaseError as error:
        said = str(error)
    if not copy.stat().st_size:
        said = "it is empty"
    if said != "ok":
        raise UserError(
            f"the copy {copy} of the sweep's records is no whole database ({said}). The machine "
            f"that ran the sweep last has them on its own disk: remove {copy.name} from the "
            "sweep's folder in the storage, and the same command there goes on from them"
        )


def backup(live: Path, copy: Path, deliver: Deliver = nothing) -> None:
    """Replace the copy, whole at every moment, by a consistent one, whoever writes meanwhile."""
    if not live.exists():
        return
    whole, arriving = live.with_suffix(".whole"), copy.with_suffix(".arriving")
    with closing(sqlite3.connect(live)) as source, closing(sqlite3.connect(whole)) as target:
        source.backup(target)
        target.execute("pragma journal_mode = delete")  # the other is for local disks only
    shutil.copyfile(whole, arriving)
    digest = _digest(whole)
    # A kill, or a store that does not answer, between this and the next: all are ours.
    _mark(live, *dict.fromkeys([*_marked(live), digest]))
    arriving.replace(copy)
    deliver()
    _mark(live, digest)
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


def _marked(live: Path) -> list[str]:
    """The digests that a copy made from here has."""
    return _marks(live).read_text().split() if _marks(live).exists() else []


def _mark(live: Path, *digests: str) -> None:
    atomic_write(_marks(live), "\n".join(digests))
