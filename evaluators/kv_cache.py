"""Keys and values of a batch in one allocation, beginning with a prefix that all rows share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from evaluators._compat import PLAIN, cache_layers, window_of


def is_plain(config: Any) -> bool:
    """Whether each layer of the model keeps keys and values of all, or the latest, positions.

    Layers with recurrent states are not: their cache cannot be cut, repeated or continued here.
    """
    layers = cache_layers(config)
    return bool(layers) and all(type(layer) in PLAIN for layer in layers)


def shortest_window(config: Any) -> float:
    """The positions that every layer can look back to, itself included; infinity for no window."""
    windows = [window_of(layer) for layer in cache_layers(config)]
    return min((float(window) for window in windows if window is not None), default=math.inf)


def batch_cache(config: Any, prefix: Cache | None, room: int) -> Cache:
    """An empty cache for the rows of one batch, after the positions of `prefix`.

    `prefix` holds one row. `room` is the number of positions that will ever be filled, prefix
    included; 0 where exactly one forward follows, which then stores nothing.
    """
    if not is_plain(config):
        return DynamicCache(config=config)
    count = len(cache_layers(config))
    before: Sequence[Any] = [None] * count if prefix is None else prefix.layers
    return Cache(layers=[_Layer(layer, room) for layer in before])


@final
class _Layer(DynamicLayer):  # type: ignore[misc]
    """Keys and values [rows, heads, positions, size] of one layer.

    DynamicLayer allocates and copies everything at each step. Here a step writes its own
    positions. A sliding window's layer keeps all positions too; the model's mask hides the old.
    """

    def __init__(self, prefix: Any, room: int) -> None:
        super().__init__()
        self._prefix: tuple[Tensor, Tensor] | None = None
        self._filled = 0
        if prefix is not None:
            self._prefix = (prefix.keys, prefix.values)
            self._filled = prefix.keys.shape[-2]
        self._room = room
        self._whole: tuple[Tensor, ...] = ()
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """All keys and values so far, with the new ones [rows, heads, new, size] at the end."""
        new = (key_states, value_states)
        if self._room == 0:
            return self._joined(new)
        if not self._whole:
            self._whole = tuple(self._allocated(part, states) for part, states in enumerate(new))
        start, self._filled = self._filled, self._filled + key_states.shape[-2]
        for whole, states in zip(self._whole, new, strict=True):
            whole[:, :, start : self._filled] = states
        self.keys, self.values = (whole[:, :, : self._filled] for whole in self._whole)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """How many positions are filled."""
        return self._filled

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows."""
        self._whole = tuple(whole[indices] for whole in self._whole)
        self.keys, self.values = (whole[:, :, : self._filled] for whole in self._whole)

    def _joined(self, new: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if self._prefix is None:
            return new
        before = (part.expand(new[0].shape[0], -1, -1, -1) for part in self._prefix)
        keys, values = (torch.cat(pair, dim=-2) for pair in zip(before, new, strict=True))
        return keys, values

    def _allocated(self, part: int, states: Tensor) -> Tensor:
        rows, heads, _, size = states.shape
        whole = states.new_empty(rows, heads, self._room, size)
        if self._prefix is not None:
            whole[:, :, : self._filled] = self._prefix[part]
        return whole
