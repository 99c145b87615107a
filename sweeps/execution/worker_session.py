"""Libraries that take seconds to import, imported while other processes are waited for.

Ray, and the groups of workers that all studies of a session share.
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

from sweeps.config.sweep_config import Resources
from sweeps.execution.cluster import has_other_nodes, ray_session
from sweeps.execution.remote_job import Stored, push_cache
from sweeps.execution.shared_storage import SHARED, probe, require_shared
from sweeps.storage.errors import UserError
from sweeps.storage.object_store import as_user_error

if TYPE_CHECKING:
    from sweeps.execution.worker_groups import WorkerGroups


@contextmanager
def imported_meanwhile(*names: str) -> Iterator[None]:
    """Import modules in a thread while the block runs; what fails fails again where used."""
    thread = threading.Thread(target=_imported, args=names, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()  # an interpreter that ends within an import may crash


def _imported(*names: str) -> None:
    for name in names:
        with contextlib.suppress(Exception):  # told again by whoever imports it for good
            importlib.import_module(name)


_SLOW = ("torch", "alembic.command", "sqlalchemy.orm")


@contextmanager
def worker_session(
    resources: Resources, folder: Path, stored: Stored | None = None, relative: bool = False
) -> Iterator[WorkerGroups]:
    """A Ray session, and as many groups as trials run at once; their files go to ``folder``, or
    through the object store that it is a mirror of. ``relative``: whether the storage was given
    by a path that says nothing to other machines.

    Raises:
        UserError: as `ray_session`; or the storage does not answer, or is not the same one on
            every node, or cannot be.
    """
    with imported_meanwhile(*_SLOW), ray_session(resources) as concurrency:
        if relative and has_other_nodes():
            raise UserError(
                f"storage {folder}: expected an absolute path on a cluster, since a relative one "
                f"is another folder on every node: {SHARED}"
            )
        with as_user_error():
            require_shared(folder if stored is None else stored.address)
            if stored is not None:
                push_cache(stored)
        from sweeps.execution.tuner import (
            worker_groups,  # Ray is imported with its environment set
        )

        is_marked = stored is None and bool(os.environ.get("RAY_ADDRESS"))
        with (
            probe(folder) if is_marked else nullcontext() as word,
            worker_groups(resources, concurrency, folder, stored, word) as groups,
        ):
            yield groups
