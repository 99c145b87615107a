"""The parameters of an optimizer: their names, and which of them no mask can be right for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, final

from torch import Tensor
from torch.optim import Optimizer

from gmt_core._compat import is_flattened
from gmt_core.naming import module_kind, plain_name

_INSTEAD: Final = "use DDP or FSDP2 (torch.distributed.fsdp.fully_shard)"


@final
@dataclass(frozen=True)
class Parameters:
    """Every parameter of an optimizer once, in its order.

    The names are the model's, without what wrappers put into them; a parameter that has none goes
    by a description. `unnamed` are the places of those.
    """

    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    unnamed: frozenset[int]

    @classmethod
    def of(
        cls, optimizer: Optimizer, given: Iterable[tuple[str, Tensor]] | None = None
    ) -> Parameters:
        """Read an optimizer; names come from `given`, or else from the optimizer's own.

        Raises ValueError where `given` names none of its parameters, and for a parameter that
        holds a part of the model in a form in which no mask is right.
        """
        groups = optimizer.param_groups
        tensors = [p for group in groups for p in group["params"]]
        own = [n for g in groups for n in g.get("param_names") or [""] * len(g["params"])]
        known = {} if given is None else _names_by_identity(given)
        found = [known.get(id(p), name) for p, name in zip(tensors, own, strict=True)]
        if known and not any(id(p) in known for p in tensors):
            raise ValueError(
                f"named_parameters: expected a name for each of the optimizer's {len(tensors)} "
                f"parameters, found {len(known)} names of others; pass the named_parameters() of "
                "the model that the optimizer was built on"
            )
        described = zip(found, _descriptions(optimizer), strict=True)
        names = [plain_name(name) or description for name, description in described]
        for name, tensor in zip(names, tensors, strict=True):
            _refuse_flattened(name, tensor)
        return cls(
            tuple(names),
            tuple(tensors),
            frozenset(place for place, name in enumerate(found) if not name),
        )

    def require_names(self, reader: str) -> None:
        """Raise ValueError where a parameter has none, since `reader` reads them."""
        if self.unnamed:
            raise ValueError(
                f"{reader} reads the names of the parameters, and {self.names[min(self.unnamed)]} "
                "of the optimizer has none: build it on model.named_parameters(), or "
                "attach(optimizer, model.named_parameters())"
            )

    def kind(self, place: int) -> str:
        """The kind of module (q_proj) of the parameter at that place; "" where it has no name."""
        return "" if place in self.unnamed else module_kind(self.names[place])

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
                f"{kind.__name__}: DeepSpeed ZeRO partitions flattened gradients, which "
                f"cannot be masked correctly; {_INSTEAD}"
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


def _refuse_flattened(name: str, tensor: Tensor) -> None:
    if is_flattened(tensor):
        raise ValueError(
            f"{name}: FSDP1 flattens parameters, which cannot be masked correctly; {_INSTEAD}"
        )
    if hasattr(tensor, "ds_id"):
        raise ValueError(
            f"{name}: DeepSpeed ZeRO-3 partitions flattened parameters, which cannot be masked "
            f"correctly; {_INSTEAD}"
        )
