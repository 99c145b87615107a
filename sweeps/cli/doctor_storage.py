"""Whether the storage can be written, and whether every machine means the same folder by it."""

from __future__ import annotations

from pathlib import Path

from sweeps.cli.doctor_machine import Finding
from sweeps.execution.preflight import writable
from sweeps.execution.shared_storage import ALLOWED, problem, remedy
from sweeps.storage.address import Address, is_address
from sweeps.storage.errors import UserError
from sweeps.storage.object_store import ObjectStore, StorageError


def check_writable(storage: Path | str) -> Finding:
    """The driver's own view."""
    if is_address(str(storage)):
        return _check_store(str(storage))
    try:
        with writable(Path(storage)):
            return Finding("storage", True, f"{storage} can be written")
    except UserError as error:
        return Finding("storage", False, str(error), "give another folder, as storage=FOLDER")


def _check_store(address: str) -> Finding:
    try:
        ObjectStore.open(Address.parse(address)).check()
    except StorageError as error:
        return Finding("storage", False, str(error), ALLOWED)
    return Finding("storage", True, f"{address} can be written and read")


def check_shared(storage: Path | str, word: str, node: str, answered: str) -> Finding:
    """On the driver, with a node's answer: each sees what the other wrote."""
    if said := problem(storage, word, node, answered):
        said = f"{storage}: {said}; another node could not go on from a trial's checkpoint"
        return Finding("storage", False, said, remedy(storage))
    return Finding("storage", True, f"{storage} is the driver's")
