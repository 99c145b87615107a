"""Masks that serve for several updates: they lie in the optimizer's state, beside its moments.

So whoever saves, loads, reshards or moves the moments does the same with the masks. Each takes
one byte for each element of its parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.optim import Optimizer

from gmt_core.errors import NonFiniteGradientError
from gmt_core.flat import flat_view, in_layout_of
from gmt_core.layout import local_part
from gmt_core.local_gradient import LocalGradient
from gmt_core.method import Method
from gmt_core.optimizer_mode import MASK_KEY, drops_of
from gmt_core.rules import KeepAll, Rule
from gmt_core.schedule import drawn_at


@final
@dataclass(frozen=True)
class KeepHeld(Rule):
    """What a mask drawn earlier keeps."""

    mask: Tensor  # bool, flat, in the order of the gradient's memory

    def keeps(self, chunk: Tensor, start: int) -> Tensor:
        """A copy of the mask's part, since the caller may overwrite it."""
        return self.mask[start : start + chunk.numel()].clone()


@final
class HeldMasks:
    """Draws the masks that are due, and finds the others where the optimizer keeps them."""

    def __init__(self) -> None:
        """None yet."""
        self.count = 0  # masks in the optimizer's state
        self._required = 0  # of them at the next step
        self._drawn: list[tuple[Tensor, Tensor | None]] = []

    def expect(self, count: int) -> None:
        """A resumed run: so many masks must be there at its first step."""
        self.count = self._required = count

    @torch.no_grad()
    def rules(
        self,
        method: Method,
        gradients: Sequence[LocalGradient],
        parameters: Sequence[Tensor],
        update: int,
        optimizer: Optimizer,
    ) -> list[Rule]:
        """One rule for each gradient; a parameter without a mask draws one of its own.

        `parameters` are all of the optimizer's. Raises what the method raises, and ValueError
        where the masks of a resumed run are not there.
        """
        drawn = drawn_at(method.hold, update)
        if not method.stores_masks:
            return method.rules(gradients, drawn)
        found: dict[int, Rule] = {}
        if drawn != update:
            self._check(optimizer)
            for index, gradient in enumerate(gradients):
                held = _held_rule(optimizer, parameters[gradient.place], gradient)
                if held is not None:
                    found[index] = held
        self._required = 0
        due = [index for index in range(len(gradients)) if index not in found]
        try:
            new = method.rules([gradients[index] for index in due], drawn)
        except NonFiniteGradientError as error:
            place = None if error.index is None else due[error.index]
            raise NonFiniteGradientError(str(error), place) from None
        found |= dict(zip(due, new, strict=True))
        self._drawn = [
            (parameter := parameters[gradients[i].place], _mask(parameter, gradients[i], found[i]))
            for i in due
        ]
        return [found[index] for index in range(len(gradients))]

    def store(self, optimizer: Optimizer) -> None:
        """After the step, since an optimizer begins its moments where a state is empty."""
        for parameter, mask in self._drawn:
            if mask is not None:
                optimizer.state[parameter][MASK_KEY] = mask
            elif parameter in optimizer.state:
                optimizer.state[parameter].pop(MASK_KEY, None)
        if self._drawn:
            self.count = _count(optimizer)
        self.forget()

    def forget(self) -> None:
        """What was drawn for a step that never ended."""
        self._drawn = []

    def _check(self, optimizer: Optimizer) -> None:
        if _count(optimizer) < self._required:
            raise ValueError(
                f"hold: the masker's state was taken with {self._required} held masks, and the "
                f"optimizer's has {_count(optimizer)}; load the optimizer's state_dict() too, "
                "and before the masker's"
            )


def _count(optimizer: Optimizer) -> int:
    return sum(MASK_KEY in state for state in optimizer.state.values())


def _held_rule(optimizer: Optimizer, parameter: Tensor, gradient: LocalGradient) -> Rule | None:
    """The rule of the mask that the optimizer holds for a parameter; None where it holds none."""
    mask = optimizer.state.get(parameter, {}).get(MASK_KEY)
    if mask is None:
        return None
    if mask.dtype != torch.bool:  # load_state_dict() casts to the parameter's dtype
        mask = optimizer.state[parameter][MASK_KEY] = mask.bool()
    return KeepHeld(flat_view(in_layout_of(local_part(mask), gradient.checked().gradient)))


def _mask(parameter: Tensor, gradient: LocalGradient, rule: Rule) -> Tensor | None:
    """What a rule keeps: bool, sharded and laid out as the parameter is; None for everything."""
    if isinstance(rule, KeepAll):
        return None
    mask = torch.zeros_like(parameter, dtype=torch.bool)
    local_part(mask).copy_(drops_of(gradient.gradient, rule).logical_not_())
    return mask
