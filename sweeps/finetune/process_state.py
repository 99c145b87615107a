"""State that runs in one process share: restore global settings, and cache what runs reuse.

`Cache` holds the loaded base model, tokenised data and benchmark items.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast, final

import torch

from sweeps.finetune.strict_model import split_paths


@contextmanager
def preserve_global_state(device: torch.device, threads: int | None) -> Iterator[None]:
    """Use `threads` CPU threads and `device`; restore threads, device and random states at the
    end."""
    before = torch.get_num_threads()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _on(device):
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            yield
        finally:
            if torch.get_num_threads() != before:
                torch.set_num_threads(before)


@contextmanager
def _on(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        try:
            yield
        finally:
            torch.cuda.empty_cache()  # free memory for the next run in this process


T = TypeVar("T")

LARGEST_KEPT = 4 * 2**30
"""Bytes of a base model that are kept for the next run; a larger one is loaded again."""


@final
class Cache:
    """Values by key that runs never change: results are bit-equal with and without the cache.

    It keeps only the latest base model, unless it is large, and the `entries` latest other values.
    """

    def __init__(self, entries: int = 16) -> None:
        """Create an empty cache."""
        self._entries = entries
        self._model: tuple[Hashable, Any, Any] | None = None
        self._values: OrderedDict[Hashable, Any] = OrderedDict()

    def model(
        self, key: Hashable, load: Callable[[], tuple[Any, Any]], device: torch.device
    ) -> tuple[Any, Any]:
        """A copy on `device` of the model under `key`, to train, and the shared tokenizer."""
        if self._model is None or self._model[0] != key:
            self._model = None  # free it before loading: two models may not fit
            model, tokenizer = load()
            if sum(p.numel() * p.itemsize for p in model.parameters()) > LARGEST_KEPT:
                return model.to(device), tokenizer
            self._model = (key, model, tokenizer)
        _, model, tokenizer = self._model
        return _copied(model, device), tokenizer

    def value(self, key: Hashable, make: Callable[[], T]) -> T:
        """The read-only value under `key`; created by `make` if missing."""
        if key not in self._values:
            self._values[key] = make()
            if len(self._values) > self._entries:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        return cast(T, self._values[key])


def _copied(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """A copy on `device`, made tensor by tensor: a large model fits on the host only once."""
    memo: dict[int, Any] = {
        id(value): torch.nn.Parameter(value.detach().to(device, copy=True), value.requires_grad)
        for value in model.parameters()
    }
    memo |= {id(value): value.detach().to(device, copy=True) for value in model.buffers()}
    return copy.deepcopy(model, memo)


def signature(path: str) -> tuple[tuple[str, int, int], ...]:
    """Name, size and modification time of the files at `path`.

    `path`: comma-separated files, or folders with all files below. A changed file is never served
    from the cache.
    """
    found: list[Path] = []
    for part in split_paths(path):
        place = Path(part).expanduser()
        found.extend(sorted(place.rglob("*")) if place.is_dir() else [place])
    stats = [(file, file.stat()) for file in found if file.is_file()]
    return tuple((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats)
