"""Attaches a method to a torch optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Self, final

from torch import Tensor
from torch.optim import Optimizer

from gmt_core._compat import loss_scale, skipped_by_scaler
from gmt_core.checks import checked_count
from gmt_core.errors import NonFiniteGradientError
from gmt_core.held_masks import HeldMasks
from gmt_core.layout import reduced
from gmt_core.local_gradient import LocalGradient
from gmt_core.mask_statistics import MaskStatistics
from gmt_core.method import Method
from gmt_core.method_config import MethodConfig
from gmt_core.naming import checked_patterns, matching, one_of
from gmt_core.optimizer_mode import MODES, Mode, Saved, check_mode, save
from gmt_core.parameters import Parameters, torch_optimizer
from gmt_core.rules import KeepAll, Rule, apply_all_
from gmt_core.step_hooks import StepHooks
from gmt_core.update_meter import EVERY, Meter

_STATE: Final = frozenset({"update", "held", "method", "mode", "exclude", "seed"})


@final
class GradientMasker:
    """Masks the gradients of an optimizer just before each of its steps.

    Two lines in any training script:

    ```python
    from gmt_core import GradientMask, GradientMasker

    masker = GradientMasker(GradientMask(mask_ratio=0.2)).attach(optimizer)
    ```

    Accumulate, reduce over ranks and clip as before: when `optimizer.step()` begins, the mask is
    computed once, on the gradient that the optimizer would use (arXiv 2406.15330, Algorithm 1).
    Under an optimizer with momentum, a masked element still moves by its moments.
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

        Args:
            method: which elements stay.
            mode: "gradient" (the paper): the optimizer sees zeros. "update": masked weights also
                keep their value in that step. "state": their moments too.
            exclude: name patterns of parameters that are not masked, as "*.bias".
            statistics_every: measure every k-th update, from the first; 0: never.

        Raises:
            ValueError: an argument of another kind, or an unknown mode.
        """
        if not isinstance(method, Method):
            raise ValueError(f"masker: expected a method, as GradientMask(0.2), found {method!r}")
        one_of("mode", mode, MODES)
        self._method, self._mode = method, mode
        every = checked_count("statistics_every", statistics_every, "0 (never) or more updates")
        self._every, self._exclude = every, checked_patterns("exclude", exclude)
        self._latest: MaskStatistics | None = None
        self._update = 0
        self._held = HeldMasks()
        self._saved: list[Saved] = []
        self._hooks: StepHooks | None = None

    def __repr__(self) -> str:
        """As it was built."""
        return (
            f"GradientMasker({self._method!r}, mode={self._mode!r}, "
            f"exclude={list(self._exclude)}, statistics_every={self._every})"
        )

    def attach(
        self,
        optimizer: Optimizer,
        named_parameters: Iterable[tuple[str, Tensor]] | None = None,
    ) -> Self:
        """Mask before every step of this optimizer. Returns the masker.

        Args:
            optimizer: a torch optimizer, or Accelerate's around one.
            named_parameters: `model.named_parameters()`, for `exclude` and for methods that read
                names; not needed if the optimizer was built from them.

        Raises:
            ValueError: a masker is attached already, names are missing or fit no pattern, or the
                mode does not know the optimizer.
        """
        if self._hooks is not None:
            raise ValueError("masker: already attached; detach() it first, or build a second one")
        optimizer = torch_optimizer(optimizer)
        check_mode(self._mode, optimizer)
        parameters = Parameters.of(optimizer, named_parameters)
        if self._method.needs_names or self._exclude:
            parameters.require_names("exclude" if self._exclude else f"method {self._method.name}")
        excluded = matching("exclude", self._exclude, parameters.names)
        self._bound = self._method.bind([n for n in parameters.names if n not in excluded])
        self._parameters, self._excluded = parameters, excluded
        self._meter = Meter(parameters, self._every) if self._every else None
        self._hooks = StepHooks(optimizer, self._before_step, self._after_step)
        return self

    def detach(self) -> None:
        """Leave the optimizer as it was. Does nothing if none is attached."""
        hooks, self._hooks = self._hooks, None
        if hooks is not None:
            hooks.remove()

    def fits(self, optimizer: Optimizer) -> bool:
        """Whether the parameters of the optimizer are those it had at `attach`."""
        return self._parameters.are_those_of(torch_optimizer(optimizer))

    @property
    def statistics(self) -> MaskStatistics | None:
        """The statistics of the latest measured update; None before the first."""
        return self._latest

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to draw the same masks, as JSON values.

        The number of updates done, which is the position in a schedule and the counter of the
        random numbers; what the masker was built with; and the number of held masks, which the
        optimizer's state_dict() contains.
        """
        return {
            "update": self._update,
            "held": self._held.count,
            "method": self._method.config.to_json(),
            "mode": self._mode,
            "exclude": list(self._exclude),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken; {"update": count} sets the position alone.

        Raises:
            ValueError: another kind of state, or that of a masker that was built differently; the
                message names the value that differs.
        """
        if not isinstance(state, Mapping) or not {"update"} <= set(state) <= _STATE:
            raise ValueError(
                "masker state: expected what state_dict() gives, {'update': count, ...}, found "
                f"{state!r}"
            )
        update = checked_count("masker state: update", state["update"], "a count of updates")
        own, other = _built(self.state_dict()), _built(state)
        differing = [key for key in own if key in other and own[key] != other[key]]
        for key in differing[:1]:
            raise ValueError(
                f"masker state: this masker has {key} {own[key]}, and the state was taken with "
                f"{key} {other[key]}, so its masks would differ; build the masker as it was, or "
                "load {'update': count} to change it on purpose"
            )
        self._held.expect(
            checked_count("masker state: held", state.get("held", 0), "a count of masks")
        )
        self._update, self._latest = update, None

    def _before_step(self, optimizer: Optimizer) -> None:
        self._saved = []  # of a step that raised an error
        self._held.forget()
        if skipped_by_scaler(optimizer):
            return
        if not self._parameters.are_those_of(optimizer):
            raise ValueError(
                "masker: the optimizer's parameters changed after attach (add_param_group?); call "
                "masker.detach() and masker.attach(optimizer, model.named_parameters()) once they "
                "are final"
            )
        found, tensors = self._gradients(), self._parameters.tensors
        pairs = zip(found, self._rules(found, optimizer), strict=True)
        # The others, sparse or complex, are kept as a whole, and cannot be counted.
        kept = [(gradient, rule) for gradient, rule in pairs if not gradient.unfit]
        gradients, rules = [gradient for gradient, _ in kept], [rule for _, rule in kept]
        self._saved = save(gradients, tensors, rules, optimizer, self._mode)
        if self._meter is not None:
            self._meter.mask_(gradients, rules, self._update)
        else:
            apply_all_([gradient.gradient for gradient in gradients], rules)
        self._update += 1

    def _after_step(self, optimizer: Optimizer) -> None:
        for saved in self._saved:
            saved.restore(optimizer, self._mode)
        self._saved = []
        self._held.store(optimizer)
        if self._meter is not None:
            measured = self._meter.finish()
            self._latest = measured.unscaled(loss_scale(optimizer)) if measured else self._latest

    def _gradients(self) -> list[LocalGradient]:
        """Those of this update."""
        return [
            LocalGradient.of(place, self._parameters.names[place], reduced(parameter), parameter)
            for place, parameter in enumerate(self._parameters.tensors)
            if parameter.grad is not None
        ]

    def _rules(self, gradients: Sequence[LocalGradient], optimizer: Optimizer) -> list[Rule]:
        """One for each gradient; what is excluded stays."""
        masked, tensors = (
            [g for g in gradients if g.name not in self._excluded],
            self._parameters.tensors,
        )
        try:
            rules = iter(self._held.rules(self._bound, masked, tensors, self._update, optimizer))
        except NonFiniteGradientError as error:
            place = "the gradients" if error.index is None else masked[error.index].name
            raise NonFiniteGradientError(
                f"update {self._update}, {place}: {error}; nothing was masked or updated",
                error.index,
            ) from None
        return [KeepAll() if g.name in self._excluded else next(rules) for g in gradients]


def _built(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a state says of its masker, by name; older states have "seed" alone."""
    found = {key: value for key, value in state.items() if key not in ("update", "held")}
    if "method" in found:
        config = MethodConfig.from_json(found.pop("method")).to_json()
        found = {"method": config.pop("name"), **config, **found}
    return found
