"""Keys and values of a batch in one allocation, with a prefix that all rows share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from evaluators._compat import PLAIN, cache_layers


def is_plain(config: Any) -> bool:
    """Whether each layer of the model keeps keys and values of all, or the latest, positions.

    Layers with recurrent states are not: their cache cannot be cut, repeated or continued here.
    """
    layers = cache_layers(config)
    return bool(layers) and all(type(layer) in PLAIN for layer in layers)


def batch_cache(
    config: Any, prefix: Cache | None, room: int, padding: Sequence[int] = ()
) -> Cache:
    """An empty cache for the rows of one batch, after the positions of `prefix`.

    `prefix` holds one row; in the batch, `padding` positions come before it in each row, and the
    row's own tokens right after it, as if all had been padded on the left together. So a window
    or a distance never counts padding. `room` is the number of positions that will ever be
    filled, prefix included; 0 where exactly one forward follows, which then stores nothing.
    """
    if not is_plain(config):
        return DynamicCache(config=config)
    count = len(cache_layers(config))
    before: Sequence[Any] = [None] * count if prefix is None else prefix.layers
    return Cache(layers=[_Layer(layer, room, padding) for layer in before])


@final
class _Layer(DynamicLayer):  # type: ignore[misc]
    """Keys and values [rows, heads, positions, size] of one layer.

    DynamicLayer allocates and copies everything at each step. Here a step writes its own
    positions. A sliding window's layer keeps all positions too; the model's mask hides the old.
    """

    def __init__(self, prefix: Any, room: int, padding: Sequence[int]) -> None:
        super().__init__()
        self._prefix: tuple[Tensor, Tensor] | None = None
        self._filled = 0
        if prefix is not None:
            self._prefix = (prefix.keys, prefix.values)
            self._filled = prefix.keys.shape[-2]
        self._padded = self._filled + max(padding, default=0)
        self._padding = padding
        self._room = room
        self._whole: tuple[Tensor, ...] = ()
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """All keys and values so far, with the new ones [rows, heads, new, size] at the end."""
        new = (key_states, value_states)
        start, end = self._filled, self._filled + key_states.shape[-2]
        whole = self._whole or tuple(_allocated(states, self._room or end) for states in new)
        for part, states in zip(whole, new, strict=True):
            part[:, :, start:end] = states
        if self._prefix is not None and (not self._whole or start < self._padded):
            self._place_prefix(whole)
        keys, values = (part[:, :, :end] for part in whole)
        if self._room:
            self._whole, self._filled, self.keys, self.values = whole, end, keys, values
        return keys, values

    def get_seq_length(self) -> int:
        """How many positions are filled."""
        return self._filled

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep only these rows."""
        self._whole = tuple(whole[beam_idx] for whole in self._whole)
        self.keys, self.values = (whole[:, :, : self._filled] for whole in self._whole)

    def _place_prefix(self, whole: Sequence[Tensor]) -> None:
        """Write the prefix after the padding of each row, over what padding has written."""
        for part, prefix in zip(whole, self._prefix or (), strict=True):
            for row, padding in enumerate(self._padding):
                part[row, :, padding : padding + prefix.shape[-2]] = prefix[0]


def _allocated(states: Tensor, room: int) -> Tensor:
    """Zeros, since hidden positions still enter a product."""
    rows, heads, _, size = states.shape
    return states.new_zeros(rows, heads, room, size)
