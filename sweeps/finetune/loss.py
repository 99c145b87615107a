"""The training loss: cross-entropy summed over the target tokens of one micro-batch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, Literal, NamedTuple, final

import torch
from torch import Tensor, nn

_LOG = logging.getLogger(__name__)


class MicroBatch(NamedTuple):
    """Right-padded rows of token ids, with the positions and targets of the loss.

    `input_ids` [rows, length]. `targets` [n] are predicted from the flat `positions` [n] (row *
    length + column) before them. Packed rows have `position_ids` [rows, length], which restart at
    0 with each example. A single row without padding has `cu_seq_lens` [examples + 1] int32: where
    each example starts, and the end.
    """

    input_ids: Tensor
    positions: Tensor
    targets: Tensor
    position_ids: Tensor | None = None
    cu_seq_lens: Tensor | None = None

    def to(self, device: torch.device) -> MicroBatch:
        """The same micro-batch on `device`."""
        if device.type == "cpu":
            return self
        moved = [None if f is None else f.to(device, non_blocking=True) for f in self]
        return MicroBatch(*moved)  # type: ignore[arg-type]


Tokens = tuple[Sequence[int], Sequence[Sequence[int]]]
"""The ids of an example, and its target tokens as spans (start, end), end exclusive, start > 0."""


def collate(rows: Sequence[Sequence[Tokens]], *, unpadded: bool = False) -> MicroBatch:
    """Examples one after another in rows, which are padded to the longest of them.

    Any token can pad: nothing attends to it, and the loss ignores it. Where no row holds two
    examples, the model numbers the positions itself and needs no attention mask. With `unpadded`,
    all examples are in one row.
    """
    if unpadded:
        rows = [[each for row in rows for each in row]]
    length = max(sum(len(tokens) for tokens, _ in row) for row in rows)
    ids: list[int] = []
    places: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    for number, row in enumerate(rows, start=1):
        for tokens, spans in row:
            for start, end in spans:
                positions += range(len(ids) + start - 1, len(ids) + end - 1)
                targets += tokens[start:end]
            places += range(len(tokens))
            ids += tokens
        padding = number * length - len(ids)
        ids += [0] * padding
        places += range(padding)  # padding is a separate example that is not used
    shape = (len(rows), length)
    packed = any(len(row) > 1 for row in rows)
    sizes = (len(tokens) for tokens, _ in rows[0])
    return MicroBatch(
        torch.tensor(ids).view(shape),
        torch.tensor(positions),
        torch.tensor(targets),
        torch.tensor(places).view(shape) if packed else None,
        torch.tensor([0, *accumulate(sizes)], dtype=torch.int32) if unpadded else None,
    )


def varlen(cu_seq_lens: Tensor | None, longest: int | None = None) -> dict[str, Any]:
    """The keywords by which the attention functions of transformers tell examples apart.

    `longest`: the tokens of the longest example, if it is not of this row.
    """
    if cu_seq_lens is None:
        return {}
    longest = longest or int(cu_seq_lens.diff().max())
    starts = {"cu_seq_lens_q": cu_seq_lens, "cu_seq_lens_k": cu_seq_lens}
    return {**starts, "max_length_q": longest, "max_length_k": longest}


@final
class TokenLoss(nn.Module):
    """A causal language model as a function from a micro-batch to its summed loss, in nats."""

    def __init__(
        self,
        model: nn.Module,
        computes_in: torch.dtype | None = None,
        chunked_from: int | None = None,
    ) -> None:
        """Wrap `model`, a Hugging Face causal language model, without changing it.

        `computes_in`: the dtype for matrix products; None keeps the dtype of the weights.
        `chunked_from`: see the function of this name.
        """
        super().__init__()
        self.model = model
        self.computes_in = computes_in
        self.chunked_from = chunked_from

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        targets: Tensor,
        position_ids: Tensor | None = None,
        cu_seq_lens: Tensor | None = None,
    ) -> Tensor:
        """Scalar sum of -log p(target) over the targets.

        There is no attention mask: padding is on the right of a causal model, so no real token
        attends to it, and fast attention kernels apply only without a mask.
        """
        mixed = self.computes_in is not None
        chunked = self.chunked_from is not None and len(targets) >= self.chunked_from
        at_head = (
            _losses_at(self.model, positions, targets, self.computes_in)
            if chunked
            else _only_at(self.model, positions)
        )
        with torch.autocast(input_ids.device.type, self.computes_in, enabled=mixed), at_head:
            found = self.model(
                input_ids=input_ids,
                position_ids=position_ids,
                use_cache=False,
                **varlen(cu_seq_lens),
            ).logits
        # At least float32 before the softmax or the sum: a bf16 log-sum-exp is too imprecise.
        found = found.flatten(0, -2).to(torch.promote_types(found.dtype, torch.float32))
        return (
            found.sum()
            if chunked
            else nn.functional.cross_entropy(found, targets, reduction="sum")
        )


@contextmanager
def _only_at(model: Any, positions: Tensor) -> Iterator[None]:
    """Feed only the hidden states at `positions` to the output projection.

    The logits of prompt and padding tokens are the largest tensor of a step and are not used.
    """

    def pick(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0].flatten(0, -2).index_select(0, positions).unsqueeze(0), *inputs[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _losses_at(
    model: Any, positions: Tensor, targets: Tensor, dtype: torch.dtype | None
) -> Iterator[None]:
    """Let the output projection return each target's loss, [1, targets, 1], instead of logits.

    Within the model's own forward pass, because there FSDP has gathered the weight.
    """
    head = model.get_output_embeddings()

    def losses(hidden: Tensor) -> Tensor:
        computed = dtype or head.weight.dtype
        picked = hidden.flatten(0, -2).index_select(0, positions)
        # Not summed within: in bfloat16, the sum would have the precision of a single loss.
        with torch.autocast(hidden.device.type, enabled=False):
            found = nn.functional.linear_cross_entropy(
                picked.to(computed),
                head.weight.to(computed),
                targets,
                linear_bias=None if head.bias is None else head.bias.to(computed),
                reduction="none",
                options=nn.LinearCrossEntropyOptions(),
            )
        return found.view(1, -1, 1)

    head.forward = losses
    try:
        yield
    finally:
        del head.forward


def chunked_from(model: Any, asked: Literal["auto", True, False]) -> int | None:
    """The least number of targets whose loss is computed in chunks of logits; None: never.

    `auto`: on accelerators, where chunks are at least as fast as all logits at once (the rule of
    `LinearCrossEntropyOptions`). Chunks need logits that are the plain output projection, without
    scale or soft cap; other models never use them.
    """
    head = model.get_output_embeddings()
    if not asked or (asked == "auto" and model.device.type == "cpu"):
        return None
    if not _is_plain(model, head):
        if asked is True:
            _LOG.warning("chunked_loss: not used, %s changes its logits", type(model).__name__)
        return None
    if asked is True:
        return 1
    return int(head.in_features) if head.out_features > head.in_features else None


@torch.no_grad()
def _is_plain(model: Any, head: Any) -> bool:
    """Whether the model returns what its output projection computes; run on a few tokens."""
    if type(head) is not nn.Linear:
        return False
    seen: list[Tensor] = []

    def enlarge(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        seen.append(1000 * output)  # a soft cap hardly changes small logits
        return seen[0]

    handle = head.register_forward_hook(enlarge)
    try:
        ids = torch.tensor([[1, 2, 3]], device=model.device)
        return torch.equal(model(input_ids=ids, use_cache=False).logits, seen[0])
    finally:
        handle.remove()
