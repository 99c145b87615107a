"""Small files that others may read at any moment."""

from __future__ import annotations

import uuid
from pathlib import Path


def write_whole(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write `text` so that who reads `path` finds all of it or what was there before, also after
    a kill and where two write at once. `mode`: of a new file, less the process's umask."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.touch(mode)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
