"""Forwards of a model; where ranks hold shards of it, all ranks make the same number of them."""

from __future__ import annotations

import inspect
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

    def __init__(self, model: Any, computes_in: torch.dtype | None = None) -> None:
        """`computes_in`: the dtype of matrix products where training uses autocast, else None."""
        self.model = model
        self.computes_in = computes_in
        self._depth = 0
        self._takes = inspect.signature(model.forward).parameters

    @property
    def dtype(self) -> torch.dtype:
        """What logits are rounded to."""
        dtype: torch.dtype = self.computes_in or self.model.dtype
        return dtype

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
        return self._call(ids, mask, positions, cache, keep)[:, -keep:]

    def _call(
        self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache | None, keep: int
    ) -> Tensor:
        named: dict[str, Any] = {"position_ids": positions, "logits_to_keep": keep}
        if "cache_params" in self._takes and "past_key_values" not in self._takes:
            # A recurrent model has no cached positions that a mask could hide.
            named |= {"cache_params": cache, "attention_mask": mask[:, -ids.shape[1] :]}
        else:
            named |= {"past_key_values": cache, "attention_mask": mask}
        if not any(each.kind is each.VAR_KEYWORD for each in self._takes.values()):
            named = {name: value for name, value in named.items() if name in self._takes}
        logits: Tensor = self.model(input_ids=ids, use_cache=cache is not None, **named).logits
        return logits

    def prefix(self, ids: Sequence[int]) -> Cache:
        """The keys and values of one row, to begin other rows with."""
        from evaluators.kv_cache import batch_cache

        cache = batch_cache(self.model.config, None, len(ids))
        self(*left_pad([ids], self.device), cache, 1)
        return cache

    def _any_busy(self, busy: bool) -> bool:
        flag = torch.tensor(int(busy), device=self.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())

    def _idle(self) -> None:
        with torch.no_grad():
            self._call(*left_pad([[0]], self.device), None, 1)
