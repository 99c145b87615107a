"""How the ranks of a group share one model: replicated (DDP) or sharded (FSDP2).

Gradients are reduced once per update, on its last micro-batch, to the sum of what each rank
accumulated; sharded ones by choice on each micro-batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast, final

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from sweeps.finetune.loss import TokenLoss
from sweeps.finetune.memory_check import free_on
from sweeps.finetune.process_group import Group
from sweeps.finetune.torch_compat import block_classes

State = dict[str, Any]

Fill = Callable[[torch.nn.Module], None]
"""Gives the parameters of a module their values; see `BaseModel`."""


class Parallel(ABC):
    """One rank's view of the model: call `loss` instead of it."""

    loss: torch.nn.Module
    sharded: bool

    @abstractmethod
    def reducing(self, last: bool) -> AbstractContextManager[None]:
        """Wraps forward and backward of a micro-batch; reduces at the latest on the `last`."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add this rank's gradient to the sum over ranks."""

    @abstractmethod
    def gathered(self) -> AbstractContextManager[None]:
        """Wraps many forwards without an update between them; call it on every rank."""

    @abstractmethod
    def whole_state(self) -> State:
        """All parameters and buffers on rank 0, to save the model; call it on every rank."""

    @abstractmethod
    def training_state(self, optimizer: torch.optim.Optimizer) -> tuple[State, State]:
        """What this rank saves of model and optimizer in a checkpoint; no frozen parameters."""

    @abstractmethod
    def restore(self, optimizer: torch.optim.Optimizer, states: tuple[State, State]) -> None:
        """Restore model and optimizer from `states`."""


@final
class Replicated(Parallel):
    """The full model on every rank; with one rank, the model itself."""

    sharded = False

    def __init__(self, loss: TokenLoss, group: Group, device: torch.device) -> None:
        """Wrap `loss`, which is on `device`, if the group has several ranks."""
        self._size, self._model = group.size, loss.model
        self.loss: torch.nn.Module = loss
        if group.size > 1:
            self.loss = DistributedDataParallel(
                loss,
                device_ids=[device] if device.type == "cuda" else None,
                forward_sync_buffers=False,
                gradient_as_bucket_view=True,
            )

    def reducing(self, last: bool) -> AbstractContextManager[None]:
        """DDP reduces in every backward unless disabled."""
        if last or not isinstance(self.loss, DistributedDataParallel):
            return nullcontext()
        return self.loss.no_sync()

    def backward(self, loss: Tensor) -> None:
        """DDP averages over ranks, so scale the loss to get the sum."""
        (loss * self._size if self._size > 1 else loss).backward()

    def gathered(self) -> AbstractContextManager[None]:
        """Every rank has all parameters."""
        return nullcontext()

    def whole_state(self) -> State:
        """The model's own state."""
        return self._model.state_dict()

    def training_state(self, optimizer: torch.optim.Optimizer) -> tuple[State, State]:
        """The complete state of what is trained, which is the same on every rank."""
        return _trained(self._model, self._model.state_dict()), optimizer.state_dict()

    def restore(self, optimizer: torch.optim.Optimizer, states: tuple[State, State]) -> None:
        """Restore the same state on every rank."""
        self._model.load_state_dict({**self._model.state_dict(), **states[0]})
        optimizer.load_state_dict(states[1])


@final
class Sharded(Parallel):
    """FSDP2: each rank holds a shard of every parameter, its gradient and its moments."""

    sharded = True

    def __init__(
        self, loss: TokenLoss, group: Group, fill: Fill | None = None, *, reduces_each: bool
    ) -> None:
        """Shard the model of `loss` in place, block by block; build the optimizer afterwards.

        `reduces_each`: reduce gradients on each micro-batch, so that no
        rank holds a whole one; otherwise only on an update's last.
        """
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        self.loss = loss
        self._group, self._reduces_each = group, reduces_each
        self._computes_in, self._model = loss.computes_in, cast(Any, loss.model)
        policy = MixedPrecisionPolicy()
        if loss.computes_in is not None:
            policy = MixedPrecisionPolicy(param_dtype=loss.computes_in, reduce_dtype=torch.float32)
        self._modules: list[Any] = [*blocks(self._model), self._model]
        for module in self._modules:
            if fill is not None:
                fill(module)
            fully_shard(module, mp_policy=policy)

    def reducing(self, last: bool) -> AbstractContextManager[None]:
        """Without `reduces_each`, gradients stay whole on every rank until the last one."""
        self._model.set_requires_gradient_sync(last or self._reduces_each)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """FSDP averages over ranks, so scale the loss to get the sum."""
        (loss * self._group.size).backward()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """The first forward gathers each block's parameters for all others, if all ranks have
        room: otherwise each forward, that is each generated token, gathers them again."""
        modules = self._modules if self._has_room() else []
        for module in modules:
            module.set_reshard_after_forward(False, recurse=False)
        try:
            yield
        finally:
            for module in modules:
                module.reshard()
                module.set_reshard_after_forward(module is not self._model, recurse=False)

    def _has_room(self) -> bool:
        """Whether the whole model takes at most half of what each rank's device has free."""
        parameters = list(self._model.parameters())
        itemsize = (self._computes_in or parameters[0].dtype).itemsize
        device = parameters[0].device
        whole = itemsize * sum(parameter.numel() for parameter in parameters)
        fits = torch.tensor(float(2 * whole <= free_on(device)), device=device)
        return bool(self._group.sum_(fits) == self._group.size)

    def whole_state(self) -> State:
        """Gathered on rank 0's CPU; empty on the others."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_model_state_dict(self._model, options=options)

    def training_state(self, optimizer: torch.optim.Optimizer) -> tuple[State, State]:
        """This rank's shards, as DTensors."""
        from torch.distributed.checkpoint.state_dict import get_state_dict

        whole, moments = get_state_dict(self._model, optimizer)
        return _trained(self._model, whole), moments

    def restore(self, optimizer: torch.optim.Optimizer, states: tuple[State, State]) -> None:
        """Restore this rank's shards."""
        from torch.distributed.checkpoint.state_dict import set_state_dict

        whole, moments = {**self._model.state_dict(), **states[0]}, states[1]
        set_state_dict(self._model, optimizer, model_state_dict=whole, optim_state_dict=moments)


def _trained(model: torch.nn.Module, state: State) -> State:
    """The part of a model's state without frozen parameters, which never change."""
    named = model.named_parameters(remove_duplicate=False)
    frozen = {name for name, parameter in named if not parameter.requires_grad}
    return {name: each for name, each in state.items() if name not in frozen}


def blocks(model: Any) -> list[torch.nn.Module]:
    """The repeated layers of a transformer, which are sharded and compiled one by one."""
    names = block_classes(model)
    return [module for module in model.modules() if type(module).__name__ in names]


def total_norm(parameters: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all gradients of the full model, equal on every rank."""
    from torch.nn.utils import get_total_norm

    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    gather: Any = getattr(norm, "full_tensor", None)
    return norm if gather is None else gather()
