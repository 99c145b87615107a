"""Measures every k-th update: masks and counts before the step, compares weights after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from gmt_core.element_sample import ElementSample
from gmt_core.layout import Spread, all_summed
from gmt_core.local_gradient import LocalGradient
from gmt_core.mask_statistics import MaskStatistics
from gmt_core.parameters import Parameters
from gmt_core.rules import Rule, Tally, apply_all_, apply_and_count_all_


@dataclass(frozen=True)
class _Begun:
    """A measurement between the two hooks."""

    update: int
    gradients: tuple[LocalGradient, ...]
    rules: tuple[Rule, ...]
    tallies: tuple[Tally, ...]
    overlaps: tuple[tuple[int, int], ...] | None  # kept by both updates, and by either
    weights: tuple[Tensor, ...]  # sampled, before the step


@final
class Meter:
    """Costs, on a measured update, two passes over the gradients (one of them in float64)."""

    def __init__(self, parameters: Parameters, every: int) -> None:
        """Measure the updates 0, every, 2 * every, ... of these parameters."""
        self._parameters, self._every = parameters, every
        self._sample = ElementSample.of(parameters.tensors)
        self._keeps: dict[int, Tensor] = {}  # by place, of the update before `_next`
        self._next = -1
        self._begun: _Begun | None = None

    def mask_(
        self, gradients: Sequence[LocalGradient], rules: Sequence[Rule], update: int
    ) -> None:
        """Mask in place, as `apply_all_` does, and count where it is the update's turn."""
        tensors = [gradient.gradient for gradient in gradients]
        before, keeps = self._keeps if update == self._next else {}, dict[int, Tensor]()
        if update % self._every == 0 or (update + 1) % self._every == 0:
            keeps = {
                g.place: self._sample.keeps(g, rule)
                for g, rule in zip(gradients, rules, strict=True)
            }
        self._keeps, self._next = keeps, update + 1
        if update % self._every:
            apply_all_(tensors, rules)
            return
        overlaps = None
        if before.keys() == keeps.keys() and keeps:
            overlaps = tuple(
                (int((keeps[p] & before[p]).sum()), int((keeps[p] | before[p]).sum()))
                for p in keeps
            )
        weights = tuple(self._weights(gradients))
        tallies = tuple(apply_and_count_all_(tensors, rules))
        self._begun = _Begun(update, tuple(gradients), tuple(rules), tallies, overlaps, weights)

    def finish(self) -> MaskStatistics | None:
        """The statistics of the update whose step is done; None where it was not measured."""
        begun, self._begun = self._begun, None
        if begun is None:
            return None
        pairs = zip(begun.weights, self._weights(begun.gradients), strict=True)
        moved = [int((before != after).sum()) for before, after in pairs]
        rows = [
            [*vars(tally).values(), share, weight.numel(), *overlap]
            for tally, share, weight, overlap in zip(
                begun.tallies,
                moved,
                begun.weights,
                begun.overlaps or [(0, 0)] * len(moved),
                strict=True,
            )
        ]
        totals = _summed(rows, [g.layout.spread for g in begun.gradients])
        tallies: dict[str, Tally] = {}
        for gradient, row in zip(begun.gradients, totals, strict=True):
            kind = self._parameters.kind(gradient.place)
            numel, kept, nonzero, energy, energy_kept = row[:5]
            tally = Tally(int(numel), int(kept), int(nonzero), energy, energy_kept)
            tallies[kind] = tallies.get(kind, Tally()) + tally
        moves, sampled, both, either = (sum(row[i] for row in totals) for i in range(5, 9))
        return MaskStatistics.of(
            begun.update,
            tallies,
            begun.rules,
            moved_fraction=moves / sampled if sampled else 0.0,
            jaccard=both / either if either else None,
        )

    def _weights(self, gradients: Sequence[LocalGradient]) -> list[Tensor]:
        tensors = self._parameters.tensors
        return [self._sample.weights(g.place, tensors[g.place]) for g in gradients]


def _summed(rows: Sequence[Sequence[float]], spreads: Sequence[Spread]) -> list[list[float]]:
    """Each row summed over the ranks that divide its tensor; one collective for each division."""
    found = [list(row) for row in rows]
    for spread in dict.fromkeys(spreads):
        chosen = [i for i, other in enumerate(spreads) if other == spread]
        table = torch.tensor([found[i] for i in chosen], dtype=torch.float64)
        for i, row in zip(chosen, all_summed(table, spread).tolist(), strict=True):
            found[i] = row
    return found
