"""Two functions around every outermost `step` of an optimizer, and what they cannot see."""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from gmt_core._compat import version_of

_OUTSIDE: Final = "gmt_core masks gradients outside of compiled graphs; use fullgraph=False"
_REDUCE: Final = "__reduce_ex__"  # what copy, deepcopy and pickle ask an object for


@dataclass
class _Seen:
    """What has happened since the hooks were registered."""

    kind: str
    stepped: bool = False
    version: int | None = None  # of one weight, when its latest gradient was computed
    changed: bool = False

    def gradient(self, weight: weakref.ref[Tensor], _: Tensor) -> None:
        """Note whether the weight was changed between two gradients of it."""
        parameter, before = weight(), self.version
        if parameter is not None:
            self.version = version_of(parameter)
            self.changed |= before not in (None, self.version)

    def end(self) -> None:
        """Warn where weights were trained and no step was seen."""
        if self.changed and not self.stepped:
            warnings.warn(
                f"masker: weights were trained and no update was masked, since {self.kind}.step() "
                "never ran; attach the masker to the optimizer whose step() updates them (of SAM "
                "with first_step() and second_step(), its base_optimizer)",
                stacklevel=2,
            )


@final
class StepHooks:
    """Registered on one optimizer until they are removed.

    A subclass whose `step` calls that of its base class still steps once. The hooks run outside
    of compiled graphs. A copy of the optimizer has none, which a warning says.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        before: Callable[[Optimizer], None],
        after: Callable[[Optimizer], None],
    ) -> None:
        """Raise ValueError where the optimizer has such hooks already, or runs none."""
        kind = type(optimizer).__name__
        if _REDUCE in vars(optimizer):
            raise ValueError(
                f"attach: this {kind} has a masker already; detach() that one first, or give one "
                "masker a ratio for each name pattern"
            )
        self._optimizer, self._seen = optimizer, _Seen(kind)
        uncompiled = partial(torch.compiler.disable, reason=_OUTSIDE)
        try:
            self._handles = [
                optimizer.register_step_pre_hook(uncompiled(partial(_begin, before, self._seen))),
                optimizer.register_step_post_hook(uncompiled(partial(_end, after))),
            ]
        except AttributeError:
            raise ValueError(
                f"attach: {kind} runs no hooks, since it never called Optimizer.__init__(); "
                "attach the masker to the optimizer that it wraps"
            ) from None
        vars(optimizer)[_REDUCE] = partial(_reduce_without_hooks, optimizer)
        tensors = (p for group in optimizer.param_groups for p in group["params"])
        trained = next((p for p in tensors if p.requires_grad), None)
        if trained is not None:
            hook = partial(self._seen.gradient, weakref.ref(trained))
            self._handles.append(trained.register_hook(hook))
        self._ended = weakref.finalize(self, self._seen.end)

    def remove(self) -> None:
        """Leave the optimizer as it was; warns where weights were trained and no step was seen."""
        for handle in self._handles:
            handle.remove()
        vars(self._optimizer).pop(_REDUCE, None)
        self._ended()


def _begin(
    before: Callable[[Optimizer], None],
    seen: _Seen,
    optimizer: Optimizer,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    seen.stepped = True
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if callable(closure):
        raise ValueError(
            "optimizer.step: expected no closure, since it would compute the gradient anew "
            "after the mask; call backward() before step()"
        )
    if not _is_nested(optimizer):
        before(optimizer)


def _end(
    after: Callable[[Optimizer], None],
    optimizer: Optimizer,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    if not _is_nested(optimizer):
        after(optimizer)


def _is_nested(optimizer: Optimizer) -> bool:
    """Whether a hook belongs to a `step` that another `step` of the same optimizer called.

    torch calls the hooks once for each class that defines `step`. A count of calls would be wrong
    after a step that raised an error, so this looks for the calling `step` itself.
    """
    frame = inspect.currentframe()
    while frame is not None:
        # Only a method calls its optimizer so: a training loop may have a step(optimizer) too.
        if frame.f_code.co_name == "step" and frame.f_locals.get("self") is optimizer:
            return True
        frame = frame.f_back
    return False


def _reduce_without_hooks(optimizer: Optimizer, protocol: Any) -> Any:
    warnings.warn(
        f"masker: the copy of this {type(optimizer).__name__} has no masker, and steps unmasked; "
        "attach one to the copy, or detach() before copying",
        stacklevel=4,
    )
    return type(optimizer).__reduce_ex__(optimizer, protocol)
