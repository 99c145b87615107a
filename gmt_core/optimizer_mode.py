"""What a mask means to the optimizer: three modes, each keeping more of a masked element.

`gradient` (the paper): the optimizer sees zeros; moments and weight decay still move the weight.
`update`: as gradient, and masked weights keep their value in this step.
`state`: as update, and masked elements also keep their moments, as if the step had not been.
Counters that a whole tensor shares (AdamW's step) go on in every mode.

Beyond the gradients, `gradient` costs nothing; `update` one byte for each element of the masked
tensors and a copy of the masked weights during the step; `state` also a copy of their moments.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

import torch
from torch import Tensor
from torch.optim import SGD, Adafactor, Adam, AdamW, Optimizer

from gmt_core.flat import chunks_of, flat_view, in_layout_of, is_dense
from gmt_core.layout import local_part
from gmt_core.local_gradient import LocalGradient
from gmt_core.naming import one_of
from gmt_core.rules import KeepAll, Rule

Mode = Literal["gradient", "update", "state"]
MODES: Final = ("gradient", "update", "state")
MASK_KEY: Final = "gmt_mask"  # of a held mask in the optimizer's state


@final
@dataclass(frozen=True)
class Known:
    """What an optimizer keeps for a parameter; each moves a weight by its own element."""

    moments: tuple[str, ...]  # one for each element; none where they belong to rows and columns
    others: tuple[str, ...] = ()


_ADAM: Final = Known(("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), ("step",))
_KNOWN: Final[dict[object, Known]] = {
    SGD: Known(("momentum_buffer",)),
    Adam: _ADAM,
    AdamW: _ADAM,
    Adafactor: Known((), ("step", "row_var", "col_var", "variance")),
    "transformers.optimization.Adafactor": Known(
        (), ("step", "RMS", "exp_avg", "exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col")
    ),
}


def check_mode(mode: Mode, optimizer: Optimizer) -> None:
    """Raise ValueError for an unknown mode, and where the mode does not know the optimizer.

    Known are some classes, and subclasses that keep their `step` and add nothing to their state.
    """
    one_of("mode", mode, MODES)
    if mode == "gradient":
        return
    kind, known, why = type(optimizer), _known(optimizer), ""
    if known is None and issubclass(kind, (SGD, Adam, Adafactor)):
        why = ", since it overrides step()"
    elif known is None:
        why = f" of {kind.__module__}"
    elif mode == "state" and not known.moments:
        why = ", whose second moments belong to rows and columns and not to elements"
    if why:
        expected = "SGD, Adam, AdamW" + (", Adafactor" if mode == "update" else "")
        raise ValueError(
            f"mode {mode!r} does not know the optimizer {kind.__name__}{why}: expected "
            f"{expected} of torch, or mode 'gradient'"
        )
    for state in optimizer.state.values():
        _check_keys(state, optimizer)


def _known(optimizer: Optimizer) -> Known | None:
    """What is known of the nearest class, where `step` is still that of this class."""
    for kind in type(optimizer).__mro__:
        found = _KNOWN.get(kind) or _KNOWN.get(f"{kind.__module__}.{kind.__qualname__}")
        if found is not None and issubclass(kind, Optimizer):
            # torch wraps step() anew on each class that it first sees.
            ours = inspect.unwrap(type(optimizer).step)
            return found if ours is inspect.unwrap(kind.step) else None
    return None


def _check_keys(state: dict[str, object], optimizer: Optimizer) -> None:
    known = _known(optimizer)
    assert known is not None
    for key in state.keys() - {*known.moments, *known.others, MASK_KEY}:
        raise ValueError(
            f"mode: the state of {type(optimizer).__name__} holds {key!r}, which its base class "
            "does not, and it may move weights too; use mode 'gradient'"
        )


@final
@dataclass(frozen=True)
class Saved:
    """What the masked elements of one tensor were before the step, in pieces."""

    parameter: Tensor
    drops: Tensor  # bool, the local gradient's shape
    weights: list[Tensor]
    moments: dict[str, list[Tensor]]  # those that the optimizer has already

    @torch.no_grad()
    def restore(self, optimizer: Optimizer, mode: Mode) -> None:
        """Put it back; moments that this step began were zero before it.

        Raises ValueError where the step left something unknown in the state.
        """
        _put_back(local_part(self.parameter), self.drops, self.weights)
        if mode == "state":
            for name, moment in _moments(optimizer, self.parameter):
                _put_back(moment, self.drops, self.moments.get(name))
        _check_keys(optimizer.state.get(self.parameter, {}), optimizer)


@torch.no_grad()
def save(
    gradients: Sequence[LocalGradient],
    parameters: Sequence[Tensor],
    rules: Sequence[Rule],
    optimizer: Optimizer,
    mode: Mode,
) -> list[Saved]:
    """Take what the mode keeps, before the gradients are masked; nothing for mode `gradient`.

    `parameters` are all of the optimizer's, in the order that the gradients' places count.
    """
    if mode == "gradient":
        return []
    saved = []
    for gradient, rule in zip(gradients, rules, strict=True):
        if isinstance(rule, KeepAll):
            continue
        parameter = parameters[gradient.place]
        drops = drops_of(gradient.gradient, rule)
        moments = {}
        if mode == "state":
            moments = {name: _taken(m, drops) for name, m in _moments(optimizer, parameter)}
        saved.append(Saved(parameter, drops, _taken(local_part(parameter), drops), moments))
    return saved


def _moments(optimizer: Optimizer, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Name and local part of each moment that the optimizer has for the parameter."""
    state, known = optimizer.state.get(parameter, {}), _known(optimizer)
    for name in known.moments if known is not None else ():
        if isinstance(state.get(name), Tensor):
            yield name, local_part(state[name])


def drops_of(gradient: Tensor, rule: Rule) -> Tensor:
    """The elements that the rule masks: bool, of the gradient's shape and memory layout."""
    drops = torch.zeros_like(gradient, dtype=torch.bool)
    flat = flat_view(drops)
    for start, chunk in chunks_of(gradient):
        keeps = rule.keeps(chunk, start)
        torch.logical_not(keeps, out=flat[start : start + chunk.numel()])
    return drops


def _chunks(tensor: Tensor, drops: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of both: indexing a whole tensor by a mask takes eight bytes for each element."""
    if not is_dense(tensor):
        yield tensor, drops
        return
    masks = chunks_of(in_layout_of(drops, tensor))
    for (_, chunk), (_, drop) in zip(chunks_of(tensor), masks, strict=True):
        yield chunk, drop


def _taken(tensor: Tensor, drops: Tensor) -> list[Tensor]:
    """The elements that are dropped, in pieces that `_put_back` knows."""
    # Pieces of their own, between larger temporaries, would scatter the heap.
    together, pieces, done = tensor.new_empty(int(drops.count_nonzero())), list[Tensor](), 0
    for chunk, drop in _chunks(tensor, drops):
        found = chunk[drop]
        pieces.append(together[done : done + found.numel()].copy_(found))
        done += found.numel()
    return pieces


def _put_back(tensor: Tensor, drops: Tensor, pieces: list[Tensor] | None) -> None:
    """Write the pieces where the mask drops, or zeros where there are none."""
    for number, (chunk, drop) in enumerate(_chunks(tensor, drops)):
        if pieces is None:
            chunk.masked_fill_(drop, 0)
        else:
            chunk.masked_scatter_(drop, pieces[number])
