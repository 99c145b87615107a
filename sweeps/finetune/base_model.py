"""The model that a run trains, with its adapter: loaded by every rank, or by rank 0 for all.

A model that is sharded is loaded once: the other ranks get its modules without weights, and then
each block's weights just before it is sharded, so that no device ever holds more than a block.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sweeps.finetune.adapter import add_adapter
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.model import load_model, load_tokenizer
from sweeps.finetune.model_facts import build_empty
from sweeps.finetune.order import mixed_seed
from sweeps.finetune.parallel import Fill
from sweeps.finetune.process_group import Group
from sweeps.finetune.process_state import Cache, signature


@final
@dataclass(frozen=True)
class BaseModel:
    """`model` on the run's device, which the run may modify.

    With `fill`, its parameters have no storage until `fill` is called with their module, on every
    rank in the same order.
    """

    model: Any
    tokenizer: Any
    fill: Fill | None = None


def base_model(
    config: FinetuneConfig, device: torch.device, group: Group, cache: Cache | None = None
) -> BaseModel:
    """The model of `config`; ModelError, on every rank, if it cannot be loaded."""
    if config.parallel != "fsdp" or group.size == 1:
        model, tokenizer = _loaded(config, device, device, cache)
        return BaseModel(model.to(device), tokenizer)
    weights: dict[str, Tensor] = {}

    def load() -> Any:
        model, _ = _loaded(config, device, torch.device("cpu"), cache)
        weights.update(model.named_parameters())
        return _without_weights(model)

    if config.model.trust_remote_code:
        build_empty(config.model)  # imports its class, which the other ranks unpickle
    model = group.from_lead(load)
    return BaseModel(model, load_tokenizer(config.model), _filler(model, weights, group, device))


def model_key(config: FinetuneConfig, device: torch.device) -> tuple[Any, ...]:
    """What the weights in memory follow from."""
    return (config.model, str(device), signature(config.model.path))


def _loaded(
    config: FinetuneConfig, device: torch.device, place: torch.device, cache: Cache | None
) -> tuple[Any, Any]:
    """The model for training on `device`, now on the CPU or in `place`, and its tokenizer."""

    def load() -> tuple[Any, Any]:
        return load_model(config.model, device)

    found = load() if cache is None else cache.model(model_key(config, device), load, place)
    if config.method.lora is not None:
        add_adapter(found[0], config.method.lora, mixed_seed(config.seed, 2))
    return found


def _without_weights(model: nn.Module) -> nn.Module:
    """A copy whose parameters are on the device "meta"; buffers are small, and copied."""
    empty = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, dict[int, Any](empty))


def _filler(
    model: nn.Module, weights: dict[str, Tensor], group: Group, device: torch.device
) -> Fill:
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    def fill(module: nn.Module) -> None:
        for parameter in [each for each in module.parameters() if each.is_meta]:
            value = torch.empty_like(parameter, device=device)
            if group.leads:
                value = weights.pop(names[id(parameter)]).detach().to(device)
            dist.broadcast(value, 0)
            # The same object, so that tied weights stay tied.
            torch.utils.swap_tensors(parameter, nn.Parameter(value, parameter.requires_grad))

    return fill
