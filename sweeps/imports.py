"""Libraries that take seconds to import, imported while other processes are waited for."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager


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
