"""Names of the embedded world (`mini:...`) to files and folders on this machine."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sweeps.finetune.strict_model import expanded
from sweeps.mini import arithmetic, knowledge, programs
from sweeps.mini.splits import Row

PREFIX = "mini:"
ASSETS = Path(__file__).parent / "assets"
TRAIN_ROWS = 2048
VALIDATION_ROWS = 128
TEST_ROWS = 200
_DATA_SEED = 0
_GENERATORS = ("splits.py", "arithmetic.py", "programs.py", "knowledge.py", "world.py")


class WorldError(ValueError):
    """A name that the embedded world does not have, or a cache it cannot write."""


def names() -> tuple[str, ...]:
    """Return every name that `resolve` knows, with its prefix."""
    return (PREFIX + "model", *(PREFIX + name for name in _files()))


def resolve(path: str) -> str:
    """Return the file or folder behind a `mini:` name; any other path comes back unchanged.

    Data files are generated on first use in $GMT_SWEEP_CACHE (default ~/.cache/gmt-sweep).
    Raises WorldError for a name that does not exist, with the nearest that does.
    """
    if not path.startswith(PREFIX):
        return path
    name = path.removeprefix(PREFIX)
    if name == "model":
        return str(ASSETS)
    files = _files()
    if name not in files:
        near = difflib.get_close_matches(path, names(), n=1, cutoff=0.0)
        raise WorldError(f"the embedded world has no {path!r}; did you mean {near[0]!r}?")
    target = cache_folder() / "mini" / _version() / name
    if not target.exists():
        _write(target, files[name]())
    return str(target)


def name_of(path: str) -> str:
    """Return the `mini:` name of a path that `resolve` gave; any other comes back unchanged."""
    if path == str(ASSETS):
        return PREFIX + "model"
    home = cache_folder() / "mini" / _version()
    return PREFIX + path.removeprefix(f"{home}/") if path.startswith(f"{home}/") else path


def cache_folder() -> Path:
    """Return where generated files are kept; it need not exist yet."""
    chosen = os.environ.get("GMT_SWEEP_CACHE")
    return expanded(chosen) if chosen else Path.home() / ".cache" / "gmt-sweep"


def _files() -> dict[str, Callable[[], list[Row]]]:
    files: dict[str, Callable[[], list[Row]]] = {
        "math/train.jsonl": partial(arithmetic.train, TRAIN_ROWS, _DATA_SEED),
        "code/train.jsonl": partial(programs.train, TRAIN_ROWS, _DATA_SEED),
        "general/train.jsonl": partial(knowledge.train, TRAIN_ROWS, _DATA_SEED),
    }
    evaluations = {
        "math": arithmetic.items,
        "code": programs.items,
        "general_choice": knowledge.choice_items,
        "general_short": knowledge.short_items,
    }
    for name, items in evaluations.items():
        files[f"{name}/validation.jsonl"] = partial(
            items, "validation", VALIDATION_ROWS, _DATA_SEED
        )
        files[f"{name}/test.jsonl"] = partial(items, "test", TEST_ROWS, _DATA_SEED)
    return files


def _version() -> str:
    # Files made by other generators than today's must never be taken for today's.
    digest = hashlib.sha256()
    for name in _GENERATORS:
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:12]


def _write(target: Path, rows: list[Row]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Several workers may get here at once: each renames a whole file of equal content.
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=target.parent, suffix=".tmp", delete=False
        ) as file:
            file.write(text)
        Path(file.name).replace(target)
    except OSError as error:
        raise WorldError(
            f"cannot write the embedded world's file {target} ({error.strerror}); "
            "set GMT_SWEEP_CACHE to a folder that can be written"
        ) from error
