"""Measures every k-th update: masks and counts before the step, compares weights after it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final, final

import torch
from torch import Tensor

from gmt_core.element_sample import ElementSample
from gmt_core.layout import Spread, all_summed
from gmt_core.local_gradient import LocalGradient
from gmt_core.mask_statistics import MaskStatistics, SampleSums, Tally
from gmt_core.parameters import Parameters
from gmt_core.rules import Rule, apply_all_, apply_and_count_all_

EVERY: Final = 10  # updates from one that is measured to the next, by default
Places = tuple[int, ...]  # of gradients of one dtype and device that the same ranks divide


@dataclass(frozen=True)
class _Begun:
    """A measurement between the two hooks."""

    update: int
    gradients: tuple[LocalGradient, ...]
    rules: tuple[Rule, ...]
    kept: tuple[Tensor, ...]  # elements of each gradient
    weights: dict[Places, Tensor]  # sampled, before the step
    sums: dict[Places, list[Tensor]]  # the last five of `SampleSums`


@final
class Meter:
    """Costs, on a measured update, one count of the gradients and a look at the sample.

    What it finds stays on the device until the step is done, and is read at once.
    """

    def __init__(self, parameters: Parameters, every: int) -> None:
        """Measure the updates 0, every, 2 * every, ... of these parameters."""
        self._parameters, self._every = parameters, every
        self._sample = ElementSample.of(parameters.tensors)
        self._keeps: dict[Places, Tensor] = {}  # of the update before `_next`
        self._next = -1
        self._begun: _Begun | None = None

    def mask_(
        self, gradients: Sequence[LocalGradient], rules: Sequence[Rule], update: int
    ) -> None:
        """Mask in place, as `apply_all_` does, and count where it is the update's turn."""
        tensors = [gradient.gradient for gradient in gradients]
        before, keeps = self._keeps if update == self._next else {}, dict[Places, Tensor]()
        measured, sums = update % self._every == 0, dict[Places, list[Tensor]]()
        self._begun = None  # of a step that raised an error
        if measured or (update + 1) % self._every == 0:
            for places, indices in _alike(gradients).items():
                members = [gradients[i] for i in indices]
                values = self._sample.of_tensors(places, [g.gradient for g in members])
                keeps[places] = self._sample.keeps(values, members, [rules[i] for i in indices])
                if measured:
                    sums[places] = _sums(values, keeps[places], before.get(places))
        self._keeps, self._next = keeps, update + 1
        if not measured:
            apply_all_(tensors, rules)
            return
        weights = {places: self._weights(places) for places in sums}
        kept = tuple(apply_and_count_all_(tensors, rules))
        self._begun = _Begun(update, tuple(gradients), tuple(rules), kept, weights, sums)

    def finish(self) -> MaskStatistics | None:
        """The statistics of the update whose step is done; None where it was not measured."""
        begun, self._begun = self._begun, None
        if begun is None:
            return None
        tallies, totals = dict[str, Tally](), [0.0] * len(fields(SampleSums))
        for places, indices in _alike(begun.gradients).items():
            before = begun.weights[places]
            moved = (before != self._weights(places)).sum()
            found = torch.stack([moved.new_tensor(before.numel()), moved, *begun.sums[places]])
            row = torch.cat([found.double(), torch.stack([begun.kept[i] for i in indices])])
            first, *_ = (begun.gradients[i] for i in indices)
            read = all_summed(row, first.layout.spread).tolist()
            totals = [a + b for a, b in zip(totals, read, strict=False)]
            for i, kept in zip(indices, read[len(totals) :], strict=True):
                gradient = begun.gradients[i]
                kind = self._parameters.kind(gradient.place)
                tally = Tally(gradient.numel, int(kept))
                tallies[kind] = tallies.get(kind, Tally()) + tally
        return MaskStatistics.of(begun.update, tallies, SampleSums(*totals), begun.rules)

    def _weights(self, places: Places) -> Tensor:
        tensors = self._parameters.tensors
        return self._sample.of_tensors(places, [tensors[place] for place in places])


def _alike(gradients: Sequence[LocalGradient]) -> dict[Places, list[int]]:
    """The indices of gradients that are read together, by their places in the optimizer."""
    groups = defaultdict[tuple[Spread, torch.device, torch.dtype], list[int]](list)
    for index, gradient in enumerate(gradients):
        local = gradient.gradient
        groups[gradient.layout.spread, local.device, local.dtype].append(index)
    return {tuple(gradients[i].place for i in indices): indices for indices in groups.values()}


def _sums(values: Tensor, keeps: Tensor, before: Tensor | None) -> list[Tensor]:
    """Nonzero, energy, energy kept, kept by both masks and kept by either; no dimensions."""
    nonzero, overlap = values.count_nonzero(), torch.zeros(2, device=values.device).unbind()
    if before is not None:
        overlap = (keeps & before).sum(), (keeps | before).sum()
    each = (torch.linalg.vector_norm(x, dtype=torch.float64) for x in (values, values * keeps))
    return [nonzero, *(norm.square() for norm in each), *overlap]
