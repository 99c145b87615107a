"""Whether the storage can be written, and whether every machine means the same folder by it."""

from __future__ import annotations

from pathlib import Path

from sweeps.doctor.finding import Finding
from sweeps.errors import UserError
from sweeps.plans.preflight import writable
from sweeps.workers.shared_storage import SHARED, problem


def check_writable(storage: Path) -> Finding:
    """The driver's own view."""
    try:
        with writable(storage):
            return Finding("storage", True, f"{storage} can be written")
    except UserError as error:
        return Finding("storage", False, str(error), "give another folder, as storage=FOLDER")


def check_shared(storage: Path, word: str, node: str, answered: str) -> Finding:
    """On the driver, with a node's answer: each sees what the other wrote."""
    if said := problem(storage, word, node, answered):
        said = f"{storage}: {said}; another node could not go on from a trial's checkpoint"
        return Finding("storage", False, said, SHARED)
    return Finding("storage", True, f"{storage} is the driver's")
