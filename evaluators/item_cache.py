"""Records of items that were scored already, so that an interrupted evaluation goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from evaluators.benchmark import Benchmark, Item, ItemRecord, protocol_sha256
from evaluators.records import as_record
from evaluators.tokens import end_tokens

# Part of every key: a change of what the engine computes makes old records unfindable.
ENGINE_VERSION = 2


def weights_sha256(model: Any, tokenizer: Any) -> str:
    """The fingerprint of a model in memory: names, shapes, dtypes and bytes, and its tokens.

    Its chat template and the tokens that end a response are part of it.
    """
    digest = hashlib.sha256()
    state: dict[str, Tensor] = model.state_dict()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    digest.update(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode())
    core = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = (
        json.dumps(tokenizer.get_vocab(), sort_keys=True) if core is None else core.to_str()
    )
    digest.update(vocabulary.encode())
    ends = sorted(end_tokens(tokenizer, getattr(model, "generation_config", None)))
    digest.update(json.dumps([getattr(tokenizer, "chat_template", None), ends]).encode())
    digest.update(json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def evaluation_key(
    weights: str, benchmark: Benchmark, items: Sequence[Item], add_bos: bool | None = None
) -> str:
    """What decides the records of an evaluation: weights, protocol, items, sandbox and engine.

    `add_bos`: of the model that is asked, see `TextModel`.
    """
    parts = [
        str(ENGINE_VERSION),
        weights,
        protocol_sha256(benchmark, add_bos),
        str(benchmark.sandbox_level),
        json.dumps([asdict(item) for item in items], sort_keys=True, default=str),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@final
class ItemCache:
    """A JSONL file of records, written as they come; a line cut short by a kill is ignored."""

    def __init__(self, path: Path) -> None:
        """`path`: one file per `evaluation_key`; created at the first record."""
        self._path = path
        self._records = {record.id: record for record in _read(path)}

    def __len__(self) -> int:
        return len(self._records)

    def find(self, ids: Sequence[str]) -> list[ItemRecord] | None:
        """The records of `ids`, in order, or None unless all are known."""
        if not all(name in self._records for name in ids):
            return None
        return [self._records[name] for name in ids]

    def add(self, records: Sequence[ItemRecord]) -> None:
        """Keep `records`, on disk when this returns."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(asdict(record)) + "\n" for record in records)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(lines)
            stream.flush()
            os.fsync(stream.fileno())
        self._records.update((record.id, record) for record in records)


def _read(path: Path) -> list[ItemRecord]:
    """The whole lines of `path`; none where there is no such file."""
    if not path.is_file():
        return []
    names = {each.name for each in fields(ItemRecord)}
    records = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and row.keys() == names:
            records.append(as_record(row))
    return records
