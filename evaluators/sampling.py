"""From what distribution the next token is drawn, and with which seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """Draw from softmax(logits / temperature), cut to the nucleus of mass `top_p`.

    The nucleus (Holtzman et al. 2020, arXiv 1904.09751) is the smallest set of most likely
    tokens whose probabilities sum to at least `top_p`.
    """

    temperature: float
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, found {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], found {self.top_p}")


def sample_seed(item_id: str, sample: int, seed: int = 0) -> int:
    """The seed of one sample of one item: the same in every batch, on every rank."""
    digest = hashlib.sha256(f"{seed}\0{sample}\0{item_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def check_seeds(sampling: Sampling | None, seeds: Sequence[int], prompts: int) -> None:
    """Raise ValueError where there is not one seed for each prompt to draw from."""
    if sampling is not None and len(seeds) != prompts:
        raise ValueError(f"expected one seed for each of {prompts} prompts: {len(seeds)}")
