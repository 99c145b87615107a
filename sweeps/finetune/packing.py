"""Pack several examples into one row: no padding between them, no attention across them.

Each example's positions restart at 0, so packing does not change results. On CPUs and with flash
attention, the examples of a micro-batch are one row without padding, and attention is computed
within each. Elsewhere, transformers builds the block-diagonal mask from the positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor

from sweeps.finetune.loss import collate, varlen
from sweeps.finetune.torch_compat import attention_of, takes_attention


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


def choose_attention(model: Any, longest: int, compiled: bool = False) -> str | None:
    """The attention with which packed examples need neither padding nor mask, see `attending`.

    None: rows are padded, and the model masks them by the positions. `longest`: the tokens of the
    longest example. `compiled`: the model will be, and must not be for each length anew.

    Raises:
        PackingError: the model lets packed examples attend to each other.
    """
    found = None if compiled else _without_mask(model)
    if found is not None:
        try:
            if not _leak(model, found, longest):
                return found
        except (TypeError, ValueError):
            pass  # it does not take the lengths, or has a narrow window
    check_packing(model)
    return None


def _without_mask(model: Any) -> str | None:
    found = attention_of(model)
    if found == "sdpa" and model.device.type == "cpu" and takes_attention(model):
        return _PER_EXAMPLE
    return found if found.startswith("flash_attention") else None


@contextmanager
def attending(model: Any, attention: str | None) -> Iterator[None]:
    """Let the model use this attention; None: its own.

    It covers the backward pass too, where gradient checkpointing computes attention again.
    """
    if attention is None:
        yield
        return
    from transformers import AttentionInterface

    # transformers makes no mask for an attention that has no mask function.
    AttentionInterface.register(_PER_EXAMPLE, _per_example)
    own = attention_of(model)
    model.set_attn_implementation(attention)
    try:
        yield
    finally:
        model.set_attn_implementation(own)


_PER_EXAMPLE: Final = "sdpa_per_example"


def _per_example(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal SDPA of each example alone, [1, tokens, heads, width] of [1, heads, tokens, width].

    Raises ValueError if an example is longer than the model's window.
    """
    from transformers import AttentionInterface

    if sliding_window is not None and max_length_q > sliding_window:
        raise ValueError(f"an example of {max_length_q} tokens, a window of {sliding_window}")
    sdpa: Any = AttentionInterface()["sdpa"]
    lengths = cu_seq_lens_q.diff().tolist()
    examples = zip(*(each.split(lengths, dim=2) for each in (query, key, value)), strict=True)
    found = [sdpa(module, *each, attention_mask, **options)[0] for each in examples]
    return torch.cat(found, dim=1), None


def check_packing(model: Any) -> None:
    """Raise PackingError unless an example has the same logits alone and packed with another."""
    if leak := _leak(model):
        raise PackingError(
            f"data.packing: {type(model).__name__} lets packed examples attend to each other "
            f"(their logits change by {leak:.2g}); expected packing: false"
        )


@torch.no_grad()
def _leak(model: Any, attention: str | None = None, longest: int | None = None) -> float:
    """How far the logits of an example change if another is before it; 0 if only by rounding.

    It runs a few tokens through the model, because nothing else shows whether it uses the
    positions or, with an `attention` that needs no mask, the lengths.
    """
    was_training = model.training
    model.eval()
    try:
        alone = _logits(model, [[4, 5, 6, 7]])
        with attending(model, attention):
            beside = [_logits(model, [first, [4, 5, 6, 7]], longest)[3:] for first in _FIRSTS]
    finally:
        model.train(was_training)
    tolerance = alone.abs().max().item() * (0.05 if alone.dtype.itemsize == 2 else 1e-4)
    apart = max((each - alone).abs().max().item() for each in beside)
    return 0.0 if apart <= tolerance else apart


_FIRSTS = ([1, 2, 3], [7, 5, 2])


def _logits(model: Any, examples: list[list[int]], longest: int | None = None) -> Tensor:
    micro = collate([[(tokens, ()) for tokens in examples]], unpadded=longest is not None)
    micro = micro.to(next(model.parameters()).device)
    logits: Tensor = model(
        input_ids=micro.input_ids,
        position_ids=micro.position_ids,
        use_cache=False,
        **varlen(micro.cu_seq_lens, longest),
    ).logits[0]
    return logits
