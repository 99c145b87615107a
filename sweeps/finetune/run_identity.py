"""What identifies a run: its settings and the content of the files it reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from evaluators.tokens import ENCODING
from sweeps.finetune.data_config import CONVERSATIONS, DataConfig
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.strict_model import split_paths

Tree = dict[str, Any]

BESIDE_THE_RESULT = {
    "checkpoint_updates",
    "checkpoint_async",
    "keep_checkpoints",
    "keep",
    "statistics_every",
    "threads",
    "micro_splits",
    "chunked_loss",
    "reduce_gradients",
}
"""Settings that change a result only by rounding: a run may resume with other values."""

FORK_CHANGES = (
    "learning_rate",
    "mask_ratio",
    "weight_decay",
    "warmup_ratio",
    "schedule",
    "clip_norm",
    "betas",
    "examples",
)
"""What may change from a checkpoint on: neither the model, nor the optimizer's state, nor which
examples an update sees."""

_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth"}
_WHOLE_BYTES, _BLOCK_BYTES, _BLOCKS = 64 << 20, 1 << 20, 16


class OtherRunError(ValueError):
    """A folder holds `what` (a result, a checkpoint) of the other run with this `fingerprint`."""

    def __init__(self, folder: Path, what: str, fingerprint: str) -> None:
        """The message names the folder."""
        super().__init__(
            f"{folder} holds the {what} of a run with another config: choose another folder"
        )
        self.folder, self.what, self.fingerprint = folder, what, fingerprint


def run_identity(config: FinetuneConfig) -> Tree:
    """A run as a tree of plain values, independent of where its files are.

    Defaults are omitted, so that a new setting changes no identity. The test items are omitted
    too, because a run does not read them. The token encoding is included.
    """
    tree = config.model_dump(mode="json", exclude=BESIDE_THE_RESULT, exclude_defaults=True)
    tree["encoding"] = ENCODING
    tree["model"]["path"] = content(config.model.path)
    tree["data"] = data_identity(config.data)
    for name, part in config.data.parts().items():
        if part.format in CONVERSATIONS:  # once, each answer was an example
            place = tree["data"]["sources"][name] if name else tree["data"]
            place["conversation"] = part.conversation
    for benchmark in tree["evaluation"]["benchmarks"]:
        benchmark.pop("test", None)
        benchmark.pop("test_limit", None)
        if isinstance(benchmark.get("validation"), str):
            benchmark["validation"] = content(benchmark["validation"])
    if (text := config.evaluation.forgetting) is not None:
        tree["evaluation"]["forgetting"] = content(text)
    drop = (tree.get("method") or {}).get("drop")
    if drop is not None:
        drop["tuned"] = content(drop["tuned"])
    if config.start_from is not None:
        tree["start_from"] = content(config.start_from)
    return tree


def lasting_identity(config: FinetuneConfig, workers: int) -> Tree:
    """The part of a run's identity that a run which continues its checkpoint must share.

    Besides `FORK_CHANGES`, the masking method and the validation checks may differ.
    """
    free = {*FORK_CHANGES, "method", "evaluation", "start_from", "batch", "accumulation_interval"}
    tree = {name: value for name, value in run_identity(config).items() if name not in free}
    lora = config.method.lora
    adapter = None if lora is None else lora.model_dump(mode="json")
    return {**tree, "lora": adapter, "effective_batch": config.effective_batch(workers)}


def data_identity(data: DataConfig) -> Tree:
    """The data's settings without defaults, and the content of its files in place of paths."""
    if not data.sources:
        tree = data.model_dump(mode="json", exclude_defaults=True)
        return {**tree, "path": content(data.path)}
    contents = {
        name: source.model_copy(update={"path": content(source.path)})
        for name, source in data.sources.items()
    }
    located = data.model_copy(update={"sources": contents})
    return located.model_dump(mode="json", exclude_defaults=True)


def digest(tree: Mapping[str, Any], length: int = 10) -> str:
    """Hex digits of the SHA-256 of a tree of plain values; the order of keys does not matter."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def content(paths: str) -> str:
    """A digest of the files at ``paths`` (comma separated), or the unchanged hub name."""
    parts = [Path(part).expanduser() for part in split_paths(paths)]
    if not parts or not all(part.exists() for part in parts):
        return paths
    return "+".join(_of_path(part) for part in parts)


def _of_path(path: Path) -> str:
    if path.is_file():
        return _of_file(str(path), path.stat().st_size, path.stat().st_mtime_ns)
    files = sorted(file for file in path.rglob("*") if file.is_file() and not _hidden(file, path))
    return digest({str(file.relative_to(path)): _of_path(file) for file in files}, 16)


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


@cache
def _of_file(path: str, size: int, modified: int) -> str:
    """A digest of one file; ``modified`` (ns) only invalidates this process's cache.

    Weights of many gigabytes are identified by size and evenly spaced blocks. Data files are read
    completely, because a single row may differ.
    """
    found = hashlib.sha256(str(size).encode())
    with Path(path).open("rb") as file:
        if size <= _WHOLE_BYTES or Path(path).suffix not in _WEIGHTS:
            while part := file.read(_BLOCK_BYTES):
                found.update(part)
        else:
            for block in range(_BLOCKS + 1):
                file.seek((size - _BLOCK_BYTES) * block // _BLOCKS)
                found.update(file.read(_BLOCK_BYTES))
    return found.hexdigest()[:16]
