"""Ray, and the groups of workers that all studies of a session share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.config import Resources
from sweeps.imports import imported_meanwhile
from sweeps.storage.told import told
from sweeps.workers.cluster import ray_session
from sweeps.workers.shared_storage import require_shared
from sweeps.workers.stored_job import Stored, push_cache

if TYPE_CHECKING:
    from sweeps.workers.group import WorkerGroups


_SLOW = ("torch", "alembic.command", "sqlalchemy.orm")


@contextmanager
def worker_session(
    resources: Resources, folder: Path, stored: Stored | None = None
) -> Iterator[WorkerGroups]:
    """A Ray session, and as many groups as trials run at once; their files go to ``folder``, or
    through the object store that it is a mirror of.

    Raises:
        UserError: as `ray_session`; or the storage does not answer, or is not the same one on
            every node.
    """
    with imported_meanwhile(*_SLOW), ray_session(resources) as concurrency:
        with told():
            require_shared(folder if stored is None else stored.address)
            if stored is not None:
                push_cache(stored)
        from sweeps.workers.tune import worker_groups  # Ray is imported with its environment set

        with worker_groups(resources, concurrency, folder, stored) as groups:
            yield groups
