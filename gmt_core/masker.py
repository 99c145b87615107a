"""Attaches a method to a torch optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, final

from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gmt_core.layout import reduced
from gmt_core.local_gradient import LocalGradient
from gmt_core.loss_scaling import skipped_by_scaler
from gmt_core.mask_statistics import MaskStatistics
from gmt_core.method import Method
from gmt_core.naming import matching
from gmt_core.parameters import Parameters, torch_optimizer
from gmt_core.rules import KeepAll, Rule, Tally, apply_all_, apply_and_count_all_
from gmt_core.threshold import NonFiniteGradientError


@final
class GradientMasker:
    """Masks the gradients of an optimizer just before each of its steps.

    Two lines in any training script::

        masker = GradientMasker(GradientMask(mask_ratio=0.2)).attach(optimizer)

    Accumulate, reduce over ranks and clip as ever before `optimizer.step()`: the mask is taken
    there, once per update, on the gradient that the optimizer would use. Under an optimizer with
    momentum, an element whose gradient is masked still moves by its moments.
    """

    def __init__(
        self, method: Method, *, exclude: Sequence[str] = (), statistics: bool = False
    ) -> None:
        """Parameters whose names fit a pattern in `exclude` ("*.bias") are left as they are.

        With `statistics`, each update is also measured (about one more pass in float64).
        """
        self._method = method
        self._exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        self._measures = statistics
        self._latest: MaskStatistics | None = None
        self._update = 0
        self._handle: RemovableHandle | None = None

    def attach(
        self,
        optimizer: Optimizer,
        named_parameters: Iterable[tuple[str, Tensor]] | None = None,
    ) -> Self:
        """Mask before every step of this optimizer; ValueError where that cannot be right.

        Names are needed by `exclude` and by methods that read them. They come from
        `named_parameters`, or from an optimizer that was built on `model.named_parameters()`.
        """
        if self._handle is not None:
            raise ValueError("masker: already attached; detach() it first, or build a second one")
        optimizer = torch_optimizer(optimizer)
        parameters = Parameters.of(optimizer, named_parameters)
        if not parameters.named and (self._method.needs_names or self._exclude):
            reads = "exclude" if self._exclude else f"method {self._method.name}"
            raise ValueError(
                f"{reads} reads the names of the parameters, and the optimizer knows none: build "
                "it on model.named_parameters(), or attach(optimizer, model.named_parameters())"
            )
        excluded = matching(self._exclude, parameters.names)
        self._bound = self._method.bind([n for n in parameters.names if n not in excluded])
        self._parameters, self._excluded = parameters, excluded
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
        if skipped_by_scaler(optimizer):
            return
        if not self._parameters.are_those_of(optimizer):
            raise ValueError(
                "masker: the optimizer's parameters changed after attach; detach() and attach() "
                "again once they are final"
            )
        gradients = [
            LocalGradient.of(place, name, reduced(parameter), parameter)
            for place, (name, parameter) in enumerate(
                zip(self._parameters.names, self._parameters.tensors, strict=True)
            )
            if parameter.grad is not None
        ]
        rules = self._rules(gradients)
        tensors = [gradient.gradient for gradient in gradients]
        if self._measures:
            tally = sum(apply_and_count_all_(tensors, rules), Tally())
            self._latest = MaskStatistics.of(tally, rules)
        else:
            apply_all_(tensors, rules)
        self._update += 1

    def _rules(self, gradients: Sequence[LocalGradient]) -> list[Rule]:
        """One for each gradient; what is excluded stays."""
        masked = [g for g in gradients if g.name not in self._excluded]
        try:
            rules = iter(self._bound.rules(masked, self._update))
        except NonFiniteGradientError as error:
            place = "the gradients" if error.index is None else masked[error.index].name
            raise NonFiniteGradientError(
                f"update {self._update}, {place}: {error}; nothing was masked or updated",
                error.index,
            ) from None
        return [KeepAll() if g.name in self._excluded else next(rules) for g in gradients]
