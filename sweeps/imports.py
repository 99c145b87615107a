"""Libraries that take seconds to import, imported while other processes are waited for."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def imported_meanwhile(name: str) -> Iterator[None]:
    """Import a module in a thread while the block runs; what fails fails again where used."""
    thread = threading.Thread(target=_imported, args=(name,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()  # an interpreter that ends within an import may crash


def _imported(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception:  # told again, with its reason, by whoever imports it for good
        return
