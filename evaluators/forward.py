"""Forwards of a model; where ranks hold shards of it, all ranks make the same number of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from evaluators.batching import left_pad

if TYPE_CHECKING:
    from transformers.cache_utils import Cache


@final
class Forward:
    """Calls a causal language model.

    A forward of an FSDP2 model gathers its shards, so every rank must take part in it. Each rank
    says before a forward that it makes one; a rank without work of its own goes along on a single
    token, inside `together`, until no rank makes one any more.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._depth = 0

    @property
    def device(self) -> torch.device:
        """Where inputs belong."""
        device: torch.device = self.model.device
        return device

    @property
    def sharded(self) -> bool:
        """Whether other ranks hold parts of the parameters."""
        if not (dist.is_available() and dist.is_initialized()):
            return False
        from torch.distributed.fsdp import FSDPModule

        modules: Iterator[nn.Module] = self.model.modules()
        return any(isinstance(module, FSDPModule) for module in modules)

    @contextmanager
    def together(self) -> Iterator[None]:
        """All forwards in here are made in step with the other ranks, which enter it as well."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0 and self.sharded:
                while self._any_busy(False):
                    self._idle()

    def __call__(
        self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache | None, keep: int
    ) -> Tensor:
        """Logits [rows, keep, vocabulary] of the last `keep` positions of `ids` [rows, new].

        `mask` [rows, cached + new] is 0 where padded. The output projection is not computed for
        other positions (30 GB at 100 x 600 x 128k in float32).
        """
        if self._depth and self.sharded:
            self._any_busy(True)
        logits: Tensor = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=keep,
        ).logits
        return logits[:, -keep:]

    def prefix(self, ids: Sequence[int]) -> Cache:
        """The keys and values of one row, to begin other rows with."""
        from evaluators.kv_cache import batch_cache

        cache = batch_cache(self.model.config, None, len(ids))
        self(*left_pad([ids], 0, self.device), cache, 1)
        return cache

    def _any_busy(self, busy: bool) -> bool:
        flag = torch.tensor(int(busy), device=self.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())

    def _idle(self) -> None:
        ids, mask, positions = left_pad([[0]], 0, self.device)
        with torch.no_grad():
            self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                use_cache=False,
                logits_to_keep=1,
            )
