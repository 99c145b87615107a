"""Names of the embedded world (`mini:...`) to files and folders on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from sweeps.finetune.strict_model import expanded
from sweeps.mini import arithmetic, knowledge, programs
from sweeps.mini.splits import Draw, Row, Split, collect
from sweeps.storage.atomic_io import atomic_write
from sweeps.storage.errors import nearest

PREFIX = "mini:"
ASSETS = Path(__file__).parent / "assets"


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
        raise WorldError(f"the embedded world has no {path!r}; {nearest(path, list(names()))}")
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


_TRAINING: dict[str, Draw[Any]] = {
    "math": arithmetic.draw,
    "code": programs.draw,
    "general": knowledge.draw,
}
_EVALUATION: dict[str, tuple[Draw[Any], Callable[[Any, random.Random], Row]]] = {
    "math": (arithmetic.draw, arithmetic.solution),
    "code": (programs.draw, programs.solution),
    "general_choice": (knowledge.draw_choice, knowledge.options),
    "general_short": (knowledge.draw_short, knowledge.reference),
}
_SIZES: dict[Split, int] = {"validation": 128, "test": 200}


def train(domain: str, count: int = 2048, seed: int = 0) -> list[Row]:
    """Return `count` training rows {prompt, response} of a domain."""
    drawn = collect(_TRAINING[domain], "train", count, seed)
    return [{"prompt": item.prompt, "response": item.response} for item in drawn]


def items(name: str, split: Split, count: int, seed: int = 0) -> list[Row]:
    """Return `count` evaluation rows of a benchmark's items, such as `general_choice`."""
    (draw, more), title = _EVALUATION[name], name.replace("_", "-")
    rng = random.Random(f"{seed}/{split}/tests")
    return [
        {"id": f"{title}-{split}-{index:03d}", "prompt": item.prompt, **more(item, rng)}
        for index, item in enumerate(collect(draw, split, count, seed))
    ]


def text(domain: str, count: int = 64) -> list[Row]:
    """Return `count` training rows {text} of a domain, to measure what a model forgets of it."""
    return [{"text": f"{row['prompt']}{row['response']}"} for row in train(domain, count)]


def _files() -> Mapping[str, Callable[[], list[Row]]]:
    files = {f"{domain}/train.jsonl": partial(train, domain) for domain in _TRAINING}
    files |= {f"{domain}/text.jsonl": partial(text, domain) for domain in _TRAINING}
    for name, (split, count) in product(_EVALUATION, _SIZES.items()):
        files[f"{name}/{split}.jsonl"] = partial(items, name, split, count)
    return files


def _version() -> str:
    # Files made by other generators than today's must never be taken for today's.
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.iterdir()):
        if file.suffix in (".py", ".yaml"):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _write(target: Path, rows: list[Row]) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(target, "".join(json.dumps(row) + "\n" for row in rows))
    except OSError as error:
        raise WorldError(
            f"cannot write the embedded world's file {target} ({error.strerror}); "
            "set GMT_SWEEP_CACHE to a folder that can be written"
        ) from error
