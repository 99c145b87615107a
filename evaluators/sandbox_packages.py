"""Installed packages that generated programs may import, each chosen by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluators.errors import SandboxError

USUAL = ("numpy",)


def usual_packages() -> tuple[str, ...]:
    """Those of `USUAL` that are installed."""
    return tuple(name for name in USUAL if _paths(name))


def find_packages(names: Sequence[str]) -> Mapping[str, tuple[Path, ...]]:
    """The file or folder of each package, and the folder of the libraries that its wheel brings.

    Raises SandboxError for a package that is not installed.
    """
    found = {name: _paths(name) for name in names}
    for name, paths in found.items():
        if not paths:
            raise SandboxError(
                f"packages: expected packages that are installed here, found {name!r}; give the "
                "name that a program imports"
            )
    return found


def _paths(name: str) -> tuple[Path, ...]:
    spec = importlib.util.find_spec(name) if name.isidentifier() and name != "__main__" else None
    if spec is None:
        return ()
    folders = [Path(each) for each in spec.submodule_search_locations or ()]
    place = folders[0] if folders else Path(spec.origin or "")
    libraries = place.parent / f"{name}.libs"
    return tuple(path for path in (place, libraries) if path.exists())
