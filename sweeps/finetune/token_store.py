"""Token ids of many examples in two flat tensors, in memory or mapped from a file."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class TokenStore:
    """`ids` [tokens] int32 of all examples in a row; example i is ids[starts[i]:starts[i + 1]]."""

    ids: Tensor
    starts: Tensor

    @classmethod
    def of(cls, rows: Iterable[list[int]]) -> Self:
        """Hold these rows; a token takes four bytes instead of a Python object."""
        parts = [torch.tensor(row, dtype=torch.int32) for row in rows]
        sizes = torch.tensor([0, *(len(part) for part in parts)])
        return cls(
            torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int32), sizes.cumsum(0)
        )

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> tuple[int, ...]:
        if index >= len(self):
            raise IndexError(index)
        start, end = self.starts[index : index + 2].tolist()
        return tuple(self.ids[start:end].tolist())


def cached(key: object, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` returns (tensors and plain values), kept on disk under a digest of `key`.

    Tensors come back mapped from the file, so the processes of a node share their memory.
    """
    place = _folder() / f"{hashlib.sha256(repr(key).encode()).hexdigest()}.pt"
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        # Several workers may get here at once: each renames a whole file of equal content.
        with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as stream:
            torch.save(make(), stream)
        Path(stream.name).replace(place)
    found: dict[str, Any] = torch.load(place, mmap=True, weights_only=True)
    return found


def _folder() -> Path:
    """Beside the caches of `datasets`, where an environment has moved those."""
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    chosen = os.environ.get("HF_DATASETS_CACHE") or Path(home) / "datasets"
    return Path(chosen).expanduser() / "gmt_sweep_tokens"
