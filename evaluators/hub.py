"""Data sets of the Hugging Face hub, at the revision that is asked for and no other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evaluators.errors import DataError

_COMMIT = re.compile(r"[0-9a-f]{40}")


def load_split(
    name: str, configuration: str | None, split: str, revision: str | None
) -> Iterable[dict[str, Any]]:
    """The rows of a split, from the hub or from the cache of `datasets`.

    Raises DataError where it cannot be loaded, and where the cache, which `datasets` falls back
    to when the hub does not answer, holds another commit than `revision`.
    """
    import datasets

    what = f"split {split!r}" + (f" of {configuration!r}" if configuration else "")
    try:
        rows: Any = datasets.load_dataset(name, configuration, split=split, revision=revision)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{what} cannot be loaded: {reason}") from error
    if revision not in (None, "main"):
        _check_commit(name, str(revision), rows)
    found: Iterable[dict[str, Any]] = rows
    return found


def _check_commit(name: str, revision: str, rows: Any) -> None:
    """Compare `revision` with the folders of the cached files, each named by its commit."""
    held = {Path(file["filename"]).parent.name for file in getattr(rows, "cache_files", ())}
    wanted = _commit(name, revision)
    if all(wanted is not None and commit.startswith(wanted) for commit in held):
        return
    if wanted is None:
        raise DataError(
            f"the hub does not answer, and whether revision '{revision}' is the commit in the "
            f"cache, {', '.join(sorted(held))}, is not known; expected that commit"
        )
    raise DataError(
        f"revision '{revision}' is not in the cache, which holds {', '.join(sorted(held))}, and "
        "the hub does not answer"
    )


def _commit(name: str, revision: str) -> str | None:
    """The commit that a branch or a tag was when the hub was last asked; a commit is its own."""
    from huggingface_hub.constants import HF_HUB_CACHE

    if _COMMIT.fullmatch(revision):
        return revision
    folder = f"datasets--{name.replace('/', '--')}"
    ref = Path(HF_HUB_CACHE) / folder / "refs" / revision
    return ref.read_text(encoding="utf-8").strip() if ref.is_file() else None
