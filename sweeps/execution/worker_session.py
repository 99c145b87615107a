"""Start a Ray session with the worker groups that all studies of a call share.

Modules that take seconds to import are imported in the background while Ray starts.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.config.resources import Resources
from sweeps.execution.cluster import check_room, has_other_nodes, ray_session
from sweeps.execution.remote_job import Stored, push_cache
from sweeps.execution.shared_storage import SHARED, probe, require_shared
from sweeps.storage.errors import UserError
from sweeps.storage.object_store import as_user_error

if TYPE_CHECKING:
    from sweeps.execution.worker_groups import WorkerGroups


@contextmanager
def imported_meanwhile(*names: str) -> Iterator[None]:
    """Import modules in a thread during the block; errors show up again where they are used."""
    thread = threading.Thread(target=_imported, args=names, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()  # Python may crash if it exits during an import


def _imported(*names: str) -> None:
    for name in names:
        with contextlib.suppress(Exception):  # the real import raises it again
            importlib.import_module(name)


_SLOW = ("torch", "alembic.command", "sqlalchemy.orm")


@contextmanager
def worker_session(
    resources: Resources, folder: Path, stored: Stored | None = None, relative: bool = False
) -> Iterator[WorkerGroups]:
    """A Ray session with one worker group for each trial that runs at once.

    The groups' files go to ``folder``, or through the object store that it mirrors. ``relative``:
    whether the storage was given as a relative path, which differs between machines.

    Raises:
        UserError: as in `ray_session`; or the storage does not respond, or is not shared by all
            nodes.
    """
    with imported_meanwhile(*_SLOW), ray_session(resources) as concurrency:
        if relative and has_other_nodes():
            raise UserError(
                f"storage {folder}: expected an absolute path on a cluster, because a relative "
                f"path is a different folder on every node: {SHARED}"
            )
        check_room(resources, one_node=stored is not None and stored.one_node)
        with as_user_error():
            require_shared(folder if stored is None else stored.address)
            if stored is not None:
                push_cache(stored)
        from sweeps.execution.tuner import (
            worker_groups,  # imports Ray, whose environment is set now
        )

        is_marked = stored is None and bool(os.environ.get("RAY_ADDRESS"))
        with (
            probe(folder) if is_marked else nullcontext() as word,
            worker_groups(resources, concurrency, folder, stored, word) as groups,
        ):
            yield groups
