"""How the next token is chosen: the most likely one, or one drawn from the distribution."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


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


@final
class Sampler:
    """Chooses tokens for rows, each of which draws from random numbers of its own."""

    def __init__(self, sampling: Sampling, seeds: Sequence[int], limit: int) -> None:
        """`limit`: the most tokens of a row; one number in [0, 1) is drawn for each."""
        self._sampling = sampling
        self._numbers = torch.stack(
            [
                torch.rand(
                    limit, generator=torch.Generator().manual_seed(seed), dtype=torch.double
                )
                for seed in seeds
            ]
        )

    def __call__(self, logits: Tensor, rows: Sequence[int], step: int) -> Tensor:
        """The token [lines] of each line of `logits` [lines, vocabulary], which is row `rows[i]`.

        The inverse of the cumulative distribution in the order of the ids: sorted by probability,
        rounding could swap near equals and so change the draw.
        """
        probabilities = (logits.float() / self._sampling.temperature).softmax(dim=-1)
        if self._sampling.top_p < 1:
            probabilities = self._nucleus(probabilities)
        cumulative = probabilities.double().cumsum(dim=-1)
        drawn = self._numbers[list(rows), step].to(logits.device)[:, None] * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, drawn, right=True)[:, 0]
        return chosen.clamp_(max=logits.shape[-1] - 1)

    def _nucleus(self, probabilities: Tensor) -> Tensor:
        """`probabilities` with 0 outside of the nucleus of each line."""
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        outside = ordered.double().cumsum(dim=-1) - ordered >= self._sampling.top_p
        return ordered.masked_fill(outside, 0.0).gather(1, order.argsort(dim=-1))
