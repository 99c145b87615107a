"""Attaches a method to a torch optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, final

from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gmt_core.mask_statistics import MaskStatistics
from gmt_core.methods import Method
from gmt_core.rules import Tally, apply_and_count_all_
from gmt_core.threshold import NonFiniteGradientError

_SHARDED = {
    "DTensor": "FSDP2 and tensor-parallel shards are not supported yet; use DDP",
    "FlatParameter": "FSDP1 flattens parameters, so no mask of theirs is right; use DDP",
}


@final
class GradientMasker:
    """Masks the gradients of an optimizer just before each of its steps.

    Two lines in any training script::

        masker = GradientMasker(GradientMask(mask_ratio=0.2)).attach(optimizer)

    Accumulate, reduce over ranks and clip as ever before `optimizer.step()`: the mask is taken
    there, once per update, on the gradient that the optimizer would use. Under an optimizer with
    momentum, an element whose gradient is masked still moves by its moments.
    """

    def __init__(self, method: Method, *, statistics: bool = False) -> None:
        """With `statistics`, each update is also measured (about one more pass in float64)."""
        self._method = method
        self._measures = statistics
        self._latest: MaskStatistics | None = None
        self._update = 0
        self._handle: RemovableHandle | None = None

    def attach(self, optimizer: Optimizer) -> Self:
        """Mask before every step of this optimizer; ValueError where that cannot be right."""
        if self._handle is not None:
            raise ValueError("masker: already attached; detach() it first, or build a second one")
        for name, parameter in _named_parameters(optimizer):
            _refuse_sharded(name, parameter)
        self._handle = optimizer.register_step_pre_hook(self._before_step)
        return self

    def detach(self) -> None:
        """Leave the optimizer as it was; nothing happens where none is attached."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    @property
    def statistics(self) -> MaskStatistics | None:
        """Of the latest update; None before the first, or where they were not asked for."""
        return self._latest

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to draw the same masks: the number of updates done."""
        return {"update": self._update}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; raises ValueError on another kind of state."""
        update = state.get("update")
        if set(state) != {"update"} or not isinstance(update, int) or update < 0:
            raise ValueError(f"masker state: expected {{'update': count}}, found {dict(state)!r}")
        self._update = update
        self._latest = None

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if any(value is not None for value in (*args[1:], *kwargs.values())):
            raise ValueError(
                "optimizer.step: expected no closure, since it would compute the gradient anew "
                "after the mask; call backward() before step()"
            )
        named = [
            (name, parameter.grad)
            for name, parameter in _named_parameters(optimizer)
            if parameter.grad is not None
        ]
        for name, gradient in named:
            _refuse_sparse(name, gradient)
        self._mask([name for name, _ in named], [gradient for _, gradient in named])
        self._update += 1

    def _mask(self, names: list[str], gradients: list[Tensor]) -> None:
        try:
            if self._measures:
                self._mask_and_measure(gradients)
            else:
                self._method.mask_(gradients, self._update)
        except NonFiniteGradientError as error:
            place = "the gradients" if error.index is None else names[error.index]
            raise NonFiniteGradientError(
                f"update {self._update}, {place}: {error}; nothing was masked or updated",
                error.index,
            ) from None

    def _mask_and_measure(self, gradients: list[Tensor]) -> None:
        rules = self._method.rules(gradients, self._update)
        tally = sum(apply_and_count_all_(gradients, rules), Tally())
        self._latest = MaskStatistics.of(tally, rules)


def _named_parameters(optimizer: Optimizer) -> list[tuple[str, Tensor]]:
    """Every parameter once, by its name where the optimizer was given names."""
    found = []
    for number, group in enumerate(optimizer.param_groups):
        parameters = group["params"]
        names = group.get("param_names") or [
            f"parameter {place} of group {number} {tuple(p.shape)}"
            for place, p in enumerate(parameters)
        ]
        found += list(zip(names, parameters, strict=True))
    return found


def _refuse_sharded(name: str, tensor: Tensor) -> None:
    kind = type(tensor).__name__
    if kind in _SHARDED:
        raise ValueError(f"{name}: cannot mask a {kind}: {_SHARDED[kind]}")


def _refuse_sparse(name: str, gradient: Tensor) -> None:
    _refuse_sharded(name, gradient)
    if gradient.is_sparse:
        raise ValueError(
            f"{name}: expected a dense gradient, found a sparse one; use sparse=False"
        )
