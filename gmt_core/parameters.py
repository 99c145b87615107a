"""The parameters of an optimizer: their names, and which of them no mask can be right for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, final

from torch import Tensor
from torch.optim import Optimizer

from gmt_core._compat import is_flattened
from gmt_core.naming import plain_name

_INSTEAD: Final = "use DDP or FSDP2 (torch.distributed.fsdp.fully_shard)"


@final
@dataclass(frozen=True)
class Parameters:
    """Every parameter of an optimizer once, in its order.

    `named` says whether the names are the model's, without what wrappers put into them.
    """

    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    named: bool

    @classmethod
    def of(
        cls, optimizer: Optimizer, given: Iterable[tuple[str, Tensor]] | None = None
    ) -> Parameters:
        """Read an optimizer; names come from `given`, or else from the optimizer's own.

        Raises ValueError for a parameter that `given` does not name, and for one that holds a
        part of the model in a form in which no mask is right.
        """
        tensors = [p for group in optimizer.param_groups for p in group["params"]]
        own = [group.get("param_names") for group in optimizer.param_groups]
        named = True
        if given is not None:
            known = _names_by_identity(given)
            names = [known.get(id(tensor), "") for tensor in tensors]
            _all_named(names, tensors, len(known))
        elif own and all(own):
            names = [name for group in own for name in group or ()]
        else:
            named = False
            names = _descriptions(optimizer)
        if named:
            names = [plain_name(name) for name in names]
        for name, tensor in zip(names, tensors, strict=True):
            _refuse_flattened(name, tensor)
        return cls(tuple(names), tuple(tensors), named)

    def are_those_of(self, optimizer: Optimizer) -> bool:
        """Whether the optimizer still holds the same ones."""
        tensors = [p for group in optimizer.param_groups for p in group["params"]]
        return list(map(id, tensors)) == list(map(id, self.tensors))


def torch_optimizer(optimizer: object) -> Optimizer:
    """The torch optimizer itself, also where Accelerate has wrapped it.

    Raises ValueError for DeepSpeed's, whose ranks hold slices of flattened gradients, and for
    what is no optimizer.
    """
    while True:
        kind = type(optimizer)
        if kind.__module__.partition(".")[0] == "deepspeed" or "DeepSpeed" in kind.__name__:
            raise ValueError(
                f"{kind.__name__}: DeepSpeed ZeRO partitions flattened gradients, so no mask of "
                f"theirs is right; {_INSTEAD}"
            )
        inner = getattr(optimizer, "optimizer", None)
        if not isinstance(inner, Optimizer) and "DeepSpeed" not in type(inner).__name__:
            break
        optimizer = inner
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"attach: expected a torch.optim.Optimizer, found {kind.__name__}")
    return optimizer


def _descriptions(optimizer: Optimizer) -> list[str]:
    return [
        f"parameter {place} of group {number} {tuple(parameter.shape)}"
        for number, group in enumerate(optimizer.param_groups)
        for place, parameter in enumerate(group["params"])
    ]


def _names_by_identity(given: object) -> dict[int, str]:
    """Each tensor's name; ValueError where these are no pairs of name and tensor."""
    found = {}
    for pair in given if isinstance(given, Iterable) else [given]:
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ValueError(
                "named_parameters: expected what model.named_parameters() gives, pairs of a name "
                f"and a parameter, found {type(pair).__name__}"
            )
        name, tensor = pair
        found[id(tensor)] = name
    return found


def _all_named(names: Sequence[str], tensors: Sequence[Tensor], known: int) -> None:
    missing = [tuple(t.shape) for name, t in zip(names, tensors, strict=True) if not name]
    if missing:
        raise ValueError(
            f"named_parameters: expected a name for each of the optimizer's {len(tensors)} "
            f"parameters, found {known} names and none for one of shape {missing[0]}; pass the "
            f"named_parameters() of the model that the optimizer was built on"
        )


def _refuse_flattened(name: str, tensor: Tensor) -> None:
    if is_flattened(tensor):
        raise ValueError(
            f"{name}: FSDP1 flattens parameters, so no mask of theirs is right; {_INSTEAD}"
        )
    if hasattr(tensor, "ds_id"):
        raise ValueError(
            f"{name}: DeepSpeed ZeRO-3 partitions flattened parameters, so no mask of theirs is "
            f"right; {_INSTEAD}"
        )
