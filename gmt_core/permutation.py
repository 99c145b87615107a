"""A keyed permutation of 0..n-1, computed element by element: counter-based randomness.

No generator state and no memory: where an element goes depends on the key and its own index
alone, so any part of a tensor can be worked out anywhere, in any order, on any device.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

_ROUNDS: Final = 4
_LEAST_BITS: Final = 6  # smaller domains give the rounds too little to mix


@dataclass(frozen=True)
class Permutation:
    """A bijection of range(size) that `of` chose."""

    size: int
    bits: int
    rounds: tuple[tuple[int, int], ...]  # (odd factor, summand) of each round

    @classmethod
    def of(cls, size: int, *key: int | str) -> Permutation:
        """The permutation of range(size) that belongs to a key of integers and names."""
        if size < 1:
            raise ValueError(f"size: expected at least one element, found {size}")
        bits = max(_LEAST_BITS, (size - 1).bit_length())
        # A factor this short keeps every product inside a signed 64-bit integer.
        short = min(bits, 62 - bits)
        text = ",".join(str(part) for part in (size, *key)).encode()
        digest = hashlib.blake2b(text, digest_size=16 * _ROUNDS).digest()
        words = [int.from_bytes(digest[i : i + 8], "little") for i in range(0, len(digest), 8)]
        rounds = tuple(
            (factor % (1 << short) | 1, summand % (1 << bits))
            for factor, summand in zip(words[::2], words[1::2], strict=True)
        )
        return cls(size, bits, rounds)

    def __call__(self, start: int, stop: int, device: torch.device) -> Tensor:
        """Where the elements start..stop-1 go: int64, shape (stop - start,)."""
        return self.of_places(torch.arange(start, stop, device=device))

    def of_places(self, places: Tensor) -> Tensor:
        """Where these elements go: int64, the same shape (one dimension)."""
        places = self._mix(places)
        # The rounds permute a power of two: walk on until the place is inside the range.
        outside = (places >= self.size).nonzero().squeeze(1)
        while outside.numel():
            moved = self._mix(places[outside])
            places[outside] = moved
            outside = outside[moved >= self.size]
        return places

    def _mix(self, x: Tensor) -> Tensor:
        mask = (1 << self.bits) - 1
        for factor, summand in self.rounds:
            x = (x * factor + summand) & mask
            x = x ^ (x >> (self.bits // 2))
        return x
