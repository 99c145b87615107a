"""Check that the storage is writable and that its path is the same folder on every machine."""

from __future__ import annotations

from pathlib import Path

from sweeps.cli.doctor_machine import Finding
from sweeps.execution.preflight import writable
from sweeps.execution.shared_storage import ALLOWED, problem, remedy
from sweeps.storage.address import Address, is_address
from sweeps.storage.errors import UserError
from sweeps.storage.object_store import ObjectStore, StorageError


def check_writable(storage: Path | str) -> Finding:
    """Check the storage from the driver's machine."""
    if is_address(str(storage)):
        return _check_store(str(storage))
    try:
        with writable(Path(storage)):
            return Finding("storage", True, f"{storage} is writable")
    except UserError as error:
        return Finding("storage", False, str(error), "use another folder: storage=FOLDER")


def _check_store(address: str) -> Finding:
    try:
        ObjectStore.open(Address.parse(address)).check()
    except StorageError as error:
        return Finding("storage", False, str(error), ALLOWED)
    return Finding("storage", True, f"{address} is readable and writable")


def check_shared(storage: Path | str, word: str, node: str, answered: str) -> Finding:
    """Compare a node's answer with the driver's view: each must see what the other wrote."""
    if said := problem(storage, word, node, answered):
        said = f"{storage}: {said}; a trial could not resume from its checkpoint on another node"
        return Finding("storage", False, said, remedy(storage))
    return Finding("storage", True, f"{storage} is the same as on the driver")
