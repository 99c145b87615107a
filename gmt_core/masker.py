"""Attaches a method to a torch optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, final

from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gmt_core._compat import skipped_by_scaler
from gmt_core.checks import checked_count
from gmt_core.errors import NonFiniteGradientError
from gmt_core.layout import reduced
from gmt_core.local_gradient import LocalGradient
from gmt_core.mask_statistics import MaskStatistics
from gmt_core.meter import EVERY, Meter
from gmt_core.method import Method
from gmt_core.naming import checked_patterns, matching, one_of
from gmt_core.optimizer_mode import MODES, Held, Mode, check_mode, hold
from gmt_core.parameters import Parameters, torch_optimizer
from gmt_core.rules import KeepAll, Rule, apply_all_


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
        self,
        method: Method,
        *,
        mode: Mode = "gradient",
        exclude: Sequence[str] = (),
        statistics_every: int = EVERY,
    ) -> None:
        """Choose what is masked, what that means to the optimizer, and what is measured.

        `mode`: `gradient` (the paper: the optimizer sees zeros), `update` (masked weights also
        keep their value in that step) or `state` (their moments too); `optimizer_mode.py` says
        what each costs. Parameters whose names fit a pattern in `exclude` ("*.bias") are left as
        they are. Every `statistics_every` updates, from the first, one is measured; 0 is never.
        """
        if not isinstance(method, Method):
            raise ValueError(f"masker: expected a method, as GradientMask(0.2), found {method!r}")
        one_of("mode", mode, MODES)
        self._method, self._mode = method, mode
        every = checked_count("statistics_every", statistics_every, "0 (never) or more updates")
        self._every, self._exclude = every, checked_patterns("exclude", exclude)
        self._latest: MaskStatistics | None = None
        self._update = 0
        self._held: list[Held] = []
        self._handles: list[RemovableHandle] = []

    def attach(
        self,
        optimizer: Optimizer,
        named_parameters: Iterable[tuple[str, Tensor]] | None = None,
    ) -> Self:
        """Mask before every step of this optimizer; ValueError where that cannot be right.

        Names are needed by `exclude` and by methods that read them. They come from
        `named_parameters`, or from an optimizer that was built on `model.named_parameters()`.
        """
        if self._handles:
            raise ValueError("masker: already attached; detach() it first, or build a second one")
        optimizer = torch_optimizer(optimizer)
        check_mode(self._mode, optimizer)
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
        self._meter = Meter(parameters, self._every) if self._every else None
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        return self

    def detach(self) -> None:
        """Leave the optimizer as it was; nothing happens where none is attached."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @property
    def statistics(self) -> MaskStatistics | None:
        """Of the latest measured update; None before the first."""
        return self._latest

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to draw the same masks.

        The number of updates done, which is the position in a schedule and the counter of the
        random numbers, and the seed.
        """
        return {"update": self._update, "seed": self._method.seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises ValueError on another kind of state, and on one of another seed.
        """
        if not isinstance(state, Mapping) or set(state) - {"seed"} != {"update"}:
            raise ValueError(
                f"masker state: expected {{'update': count, 'seed': number}}, found {state!r}"
            )
        update = checked_count("masker state: update", state["update"], "a count of updates")
        if state.get("seed", self._method.seed) != self._method.seed:
            raise ValueError(
                f"masker state: method {self._method.name} has seed {self._method.seed}, and the "
                f"state was taken with seed {state['seed']}, so its masks would differ"
            )
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
        self._held = hold(gradients, self._parameters.tensors, rules, optimizer, self._mode)
        if self._meter is not None:
            self._meter.mask_(gradients, rules, self._update)
        else:
            apply_all_([gradient.gradient for gradient in gradients], rules)
        self._update += 1

    def _after_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        for held in self._held:
            held.restore(optimizer, self._mode)
        self._held = []
        if self._meter is not None:
            self._latest = self._meter.finish() or self._latest

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
