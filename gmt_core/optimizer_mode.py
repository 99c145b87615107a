"""What a mask means to the optimizer: three modes, each keeping more of a masked element.

`gradient` (the paper): the optimizer sees zeros; moments and weight decay still move the weight.
`update`: as gradient, and masked weights keep their value in this step.
`state`: as update, and masked elements also keep their moments, as if the step had not been.
Counters that a whole tensor shares (AdamW's step) go on in every mode.

Beyond the gradients, `gradient` costs nothing; `update` one byte for each element of the masked
tensors and a copy of the masked weights during the step; `state` also a copy of their moments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from gmt_core.flat import chunks_of, flat_view
from gmt_core.layout import local_part
from gmt_core.local_gradient import LocalGradient
from gmt_core.naming import one_of
from gmt_core.rules import KeepAll, Rule

Mode = Literal["gradient", "update", "state"]
MODES: Final = ("gradient", "update", "state")

# What each optimizer keeps for each element; every one here moves a weight by its own element.
_MOMENTS: Final = {
    "SGD": ("momentum_buffer",),
    "Adam": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    "AdamW": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
}
_KNOWN: Final = {"update": (*_MOMENTS, "Adafactor"), "state": tuple(_MOMENTS)}


def check_mode(mode: Mode, optimizer: Optimizer) -> None:
    """Raise ValueError for an unknown mode, and where the mode does not know the optimizer."""
    one_of("mode", mode, MODES)
    known, kind = _KNOWN.get(mode), type(optimizer).__name__
    if known is None or kind in known:
        return
    why = ""
    if kind == "Adafactor":
        why = ", whose second moments belong to rows and columns and not to elements"
    raise ValueError(
        f"mode {mode!r} does not know the optimizer {kind}{why}: expected "
        f"{', '.join(known)}, or mode 'gradient'"
    )


@final
@dataclass(frozen=True)
class Held:
    """What the masked elements of one tensor were before the step."""

    parameter: Tensor
    drops: Tensor  # bool, the local gradient's shape
    weights: Tensor
    moments: dict[str, Tensor]  # those that the optimizer has already

    @torch.no_grad()
    def restore(self, optimizer: Optimizer, mode: Mode) -> None:
        """Put it back; moments that this step began were zero before it."""
        local_part(self.parameter).masked_scatter_(self.drops, self.weights)
        if mode == "state":
            for name, moment in _moments(optimizer, self.parameter):
                before = self.moments.get(name)
                if before is None:
                    moment.masked_fill_(self.drops, 0)
                else:
                    moment.masked_scatter_(self.drops, before)


@torch.no_grad()
def hold(
    gradients: Sequence[LocalGradient],
    parameters: Sequence[Tensor],
    rules: Sequence[Rule],
    optimizer: Optimizer,
    mode: Mode,
) -> list[Held]:
    """Take what the mode keeps, before the gradients are masked; nothing for mode `gradient`.

    `parameters` are all of the optimizer's, in the order that the gradients' places count.
    """
    if mode == "gradient":
        return []
    held = []
    for gradient, rule in zip(gradients, rules, strict=True):
        if isinstance(rule, KeepAll):
            continue
        parameter = parameters[gradient.place]
        drops = _drops(gradient.gradient, rule)
        moments = {}
        if mode == "state":
            moments = {name: m[drops] for name, m in _moments(optimizer, parameter)}
        held.append(Held(parameter, drops, local_part(parameter)[drops], moments))
    return held


def _moments(optimizer: Optimizer, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Name and local part of each moment that the optimizer has for the parameter."""
    state = optimizer.state.get(parameter, {})
    for name in _MOMENTS[type(optimizer).__name__]:
        if isinstance(state.get(name), Tensor):
            yield name, local_part(state[name])


def _drops(gradient: Tensor, rule: Rule) -> Tensor:
    """The elements that the rule masks: bool, of the gradient's shape and memory layout."""
    drops = torch.zeros_like(gradient, dtype=torch.bool)
    flat = flat_view(drops)
    for start, chunk in chunks_of(gradient):
        keeps = rule.keeps(chunk, start)
        if keeps is not None:
            flat[start : start + chunk.numel()] = keeps.logical_not()
    return drops
