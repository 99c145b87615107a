"""Draws the next token from the model's distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from evaluators.sampling import Sampling


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
