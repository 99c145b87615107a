"""What `ray job submit --working-dir` would send to a cluster: how much, and whether a secret."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from sweeps.doctor.finding import Finding

MIB = 2**20
MOST_BYTES = 50 * MIB
"""The code is some MiB; Ray itself refuses 500."""

_SECRET = re.compile(
    r"(^|/)(\.env(\..+)?|id_(rsa|ed25519)|auth_token|credentials(\.json)?|[^/]+\.(pem|key))$"
)


@final
@dataclass(frozen=True)
class Shipped:
    """One file that would be sent; its path is relative to the folder."""

    path: str
    size: int


def shipped_files(folder: Path) -> list[Shipped]:
    """What Ray would send of ``folder``, by its own rules: .gitignore, .rayignore, its defaults.

    Reads no file, so a folder full of data costs nothing.
    """
    import logging

    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    found: list[Shipped] = []

    def note(path: Path) -> None:
        if path.is_file():
            found.append(Shipped(str(path.relative_to(folder)), path.stat().st_size))

    excludes = _get_excludes(folder, [".git", ".venv", "venv", "__pycache__"])
    quiet = logging.getLogger(f"{__name__}.quiet")
    quiet.disabled = True
    _dir_travel(folder, [excludes], note, include_gitignore=True, logger=quiet)
    return sorted(found, key=lambda file: -file.size)


def check_shipped(files: Iterable[Shipped]) -> Finding:
    """Little, and nothing secret. ``files``: the largest first."""
    files = list(files)
    secrets = [file.path for file in files if _SECRET.search(file.path)]
    if secrets:
        said = f"would be sent to the cluster: {', '.join(secrets[:5])}"
        return Finding("job folder", False, said, f"echo '{secrets[0]}' >> .rayignore")
    total = sum(file.size for file in files)
    said = f"{len(files)} files, {total / MIB:.1f} MiB would be sent"
    if total > MOST_BYTES:
        largest = ", ".join(f"{f.path} ({f.size / MIB:.0f} MiB)" for f in files[:3])
        said = f"{said}, expected {MOST_BYTES / MIB:.0f} at most; the largest: {largest}"
        return Finding("job folder", False, said, f"echo '{files[0].path}' >> .rayignore")
    return Finding("job folder", True, said)
