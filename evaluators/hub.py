"""Data sets of the Hugging Face hub, at the revision that is asked for and no other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evaluators.errors import DataError

_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_commit(revision: str | None) -> bool:
    """Whether `revision` is a commit, which never changes, and not a branch or a tag."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


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
    if revision is not None and revision != "main":
        rows = _at_commit(name, revision, split, rows)
    found: Iterable[dict[str, Any]] = rows
    return found


def _at_commit(name: str, revision: str, split: str, rows: Any) -> Any:
    """`rows`, or the cached ones of another commit, whichever is `revision`'s.

    Each commit has a folder of its name in the cache, and `datasets` takes the latest of them.
    """
    from datasets import Dataset, concatenate_datasets

    served = {Path(file["filename"]).parent for file in getattr(rows, "cache_files", ())}
    wanted = _commit(name, revision)
    if all(folder.name == wanted for folder in served):
        return rows
    held = ", ".join(sorted(folder.name for folder in served))
    if wanted is None:
        raise DataError(
            f"the hub does not resolve revision '{revision}', so it cannot be compared with the "
            f"commit in the cache; expected {held}"
        )
    of_split = re.compile(rf".*-{re.escape(split)}(-\d+-of-\d+)?\.arrow")
    beside = sorted(file for folder in served for file in (folder.parent / wanted).glob("*"))
    files = [str(file) for file in beside if of_split.fullmatch(file.name)]
    if not files:
        raise DataError(
            f"revision '{revision}' was not loaded from the hub and is not in the cache, which "
            f"holds {held}"
        )
    return concatenate_datasets([Dataset.from_file(file) for file in files])


def _commit(name: str, revision: str) -> str | None:
    """The commit that a branch or a tag was when the hub was last asked; a commit is its own."""
    from huggingface_hub.constants import HF_HUB_CACHE

    if is_commit(revision):
        return revision
    folder = f"datasets--{name.replace('/', '--')}"
    ref = Path(HF_HUB_CACHE) / folder / "refs" / revision
    return ref.read_text(encoding="utf-8").strip() if ref.is_file() else None
