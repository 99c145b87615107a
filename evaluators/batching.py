"""Grouping sequences of different lengths into left-padded batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def plan_batches(lengths: Sequence[int], fits: Callable[[int, int], bool]) -> list[list[int]]:
    """Indices of `lengths`, longest first, in groups; `fits(rows, longest)` says what fits.

    Longest first wastes little padding and runs out of memory at once or never. A sequence that
    does not even fit alone gets a group of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    groups: list[list[int]] = []
    for index in order:
        if groups and fits(len(groups[-1]) + 1, lengths[groups[-1][0]]):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def left_pad(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention mask and positions, each int64 [rows, longest], padded on the left."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    positions = (mask.cumsum(dim=1) - 1).clamp_(min=0)
    return ids.to(device), mask.to(device), positions.to(device)
