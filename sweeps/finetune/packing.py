"""Pack several examples into one row: no padding between them, no attention across them.

Each example's positions restart at 0. From these, transformers builds the block-diagonal mask
(SDPA) or the cumulative lengths (flash attention), so packing does not change results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class PackingError(ValueError):
    """The model lets packed examples attend to each other."""


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `lengths` in rows of at most `capacity`: first fit, longest first.

    Uses at most 11/9 of the fewest possible rows, plus one (Johnson 1973).
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        size = lengths[index]
        place = next((row for row, left in enumerate(room) if left >= size), None)
        if place is None:
            rows.append([])
            room.append(max(capacity, size))
            place = len(rows) - 1
        rows[place].append(index)
        room[place] -= size
    return rows


@torch.no_grad()
def check_packing(model: Any) -> None:
    """Raise PackingError unless an example has the same logits alone and packed with another.

    It runs a few tokens through the model, because nothing else shows whether it uses the
    positions.
    """
    was_training = model.training
    model.eval()
    try:
        device = next(model.parameters()).device
        beside = [_logits(model, [first, [4, 5, 6, 7]], device)[3:] for first in _FIRSTS]
        alone = _logits(model, [[4, 5, 6, 7]], device)
    finally:
        model.train(was_training)
    scale = alone.abs().max().item()
    tolerance = scale * (0.05 if alone.dtype.itemsize == 2 else 1e-4)
    apart = max((each - alone).abs().max().item() for each in beside)
    if not apart <= tolerance:
        raise PackingError(
            f"data.packing: {type(model).__name__} lets packed examples attend to each other "
            f"(their logits change by {apart:.2g}); expected packing: false"
        )


_FIRSTS = ([1, 2, 3], [7, 5, 2])


def _logits(model: Any, examples: list[list[int]], device: torch.device) -> Tensor:
    ids = [token for tokens in examples for token in tokens]
    places = [place for tokens in examples for place in range(len(tokens))]
    logits: Tensor = model(
        input_ids=torch.tensor([ids], device=device),
        position_ids=torch.tensor([places], device=device),
        use_cache=False,
    ).logits[0]
    return logits
