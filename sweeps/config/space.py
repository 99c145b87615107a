"""The search space: which parameters vary between trials, and how points are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import inf, isclose, prod
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from sweeps.config.parameter_forms import plain_form
from sweeps.finetune.strict_model import StrictModel

Point = dict[str, float | int | str]


class Draws(Protocol):
    """Draws values: an Optuna trial, or a draft of one."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number in a range."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of the choices."""


def plain_point(accumulation_interval: int, learning_rate: float = 1e-3) -> Point:
    """SFT at an interval, for facts independent of mask and rate, such as update counts."""
    return {
        "mask_ratio": 0.0,
        "accumulation_interval": accumulation_interval,
        "learning_rate": learning_rate,
    }


Method = Literal["sft", "gmt", "random", "hft"]
MASKING: tuple[Method, ...] = ("gmt", "random")
"""The methods with a mask ratio; half fine-tuning freezes half of the tensors instead."""


GRID_TOLERANCE = 1e-6
"""In steps: 0.3 is on the grid of 0.1 although 0.3 / 0.1 is 2.9999999999999996. For a choice, the
relative difference allowed from its recorded value."""

MOST_POINTS = 1_000_000
"""The most points of a grid or of a range with steps; more are a typo and would not fit in memory.
"""


class FloatRange(StrictModel):
    """An interval of floats, optionally on a grid (``step``) or a logarithmic scale (``log``)."""

    low: float
    high: float
    step: Annotated[float, Field(gt=0)] | None = None
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> FloatRange:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range requires low above 0, got {self.low}")
        if self.log and self.step is not None:
            raise ValueError("a range has either a step or a logarithmic scale, not both")
        if self.step is not None and (self.high - self.low) / self.step >= MOST_POINTS:
            raise ValueError(
                f"from low {self.low:g} to high {self.high:g}, a step of {self.step:g} gives more "
                f"than {MOST_POINTS:,} values: expected fewer, or no step"
            )
        if not self.contains(self.high):
            raise ValueError(
                f"from low {self.low:g}, steps of {self.step:g} do not end at high {self.high:g}"
            )
        return self

    def values(self) -> tuple[float, ...]:
        """The two ends, which is enough to check bounds."""
        return (self.low, self.high)

    def suggest(self, trial: Draws, name: str) -> float:
        """One value, drawn by the study's sampler."""
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def contains(self, value: Any) -> bool:
        """Whether ``value`` is valid for a starting point: within the ends and on the grid."""
        if not self.low <= value <= self.high:
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return bool(abs(steps - round(steps)) < GRID_TOLERANCE)

    def grid(self) -> tuple[float, ...]:
        """Every value of a range with steps.

        Raises:
            ValueError: the range is infinite.
        """
        if self.step is None and self.low < self.high:
            raise ValueError(
                f"the sampler grid requires a finite range: expected a list, or low, high and "
                f"step, got {self}"
            )
        steps = 0 if self.step is None else round((self.high - self.low) / self.step)
        values = (self.low + index * (self.step or 0.0) for index in range(steps + 1))
        return tuple(min(value, self.high) for value in values)  # 3 * 0.1 is above 0.3

    def count(self) -> int | None:
        """The number of values; None if infinite."""
        if self.step is None:
            return 1 if self.low == self.high else None
        return round((self.high - self.low) / self.step) + 1

    def place(self, value: float) -> float | None:
        """A key that equal values share, such as the number of steps; None if outside."""
        if not self.contains(value):
            return None
        return value if self.step is None else round((value - self.low) / self.step)

    def __str__(self) -> str:
        grid = f" in steps of {self.step:g}" if self.step is not None else ""
        return f"{self.low:g} to {self.high:g}{grid}"


class Choices(StrictModel):
    """A finite set of numbers; each is checked against the bounds of its parameter."""

    model_config = ConfigDict(allow_inf_nan=True)

    choices: Annotated[tuple[float | int, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_once(self) -> Choices:
        for index, value in enumerate(self.choices):
            if any(isclose(value, other, rel_tol=1e-9) for other in self.choices[:index]):
                raise ValueError(
                    f"{value} is given twice: expected each value once, got {[*self.choices]}"
                )
        return self

    def values(self) -> tuple[float, ...]:
        """Every choice."""
        return self.choices

    def grid(self) -> tuple[float, ...]:
        """Every choice, like ``values``."""
        return self.choices

    def suggest(self, trial: Draws, name: str) -> float:
        """One value, drawn by the study's sampler."""
        drawn: float = trial.suggest_categorical(name, self.choices)
        return drawn

    def contains(self, value: Any) -> bool:
        """Whether ``value`` is valid for a starting point."""
        return value in self.choices

    def count(self) -> int:
        """The number of values."""
        return len(self.choices)

    def place(self, value: float) -> float | None:
        """The choice equal to ``value`` up to rounding; None if there is none."""
        nearest = min(self.choices, key=lambda choice: abs(choice - value))
        return nearest if isclose(nearest, value, rel_tol=GRID_TOLERANCE) else None

    def __str__(self) -> str:
        return "one of " + ", ".join(f"{value:g}" for value in self.choices)


def parameter(value: Any) -> FloatRange | Choices:
    """A parameter from its YAML form: a number, a list, ``{choices}`` or ``{low, high, ...}``."""
    if isinstance(value, FloatRange | Choices):
        return value
    form = plain_form(value)
    return (Choices if "choices" in form else FloatRange).model_validate(form)


def _list(value: Any) -> Choices:
    parsed = parameter(value)
    if isinstance(parsed, FloatRange):
        raise ValueError("expected a number, or a list of numbers such as [1, 2, 4]")
    return parsed


def _each(is_valid: Callable[[float], bool], expected: str) -> AfterValidator:
    """Check every value of a parameter."""

    def check(parameter: FloatRange | Choices) -> FloatRange | Choices:
        for value in parameter.values():
            if not is_valid(value):
                raise ValueError(f"expected {expected}, got {value}")
        return parameter

    return AfterValidator(check)


_ratio = _each(
    lambda value: 0 <= value < 1,
    "a fraction in [0, 1), the share of gradient elements that is zeroed (0 is plain fine-tuning)",
)
_rate = _each(lambda value: 0 < value < inf, "a number above 0")
_interval = _each(
    lambda value: 1 <= value < MOST_POINTS and value == int(value),
    "a whole number of mini-batches, 1 or more",
)
MaskRatio = Annotated[FloatRange | Choices, BeforeValidator(parameter), _ratio]
LearningRate = Annotated[FloatRange | Choices, BeforeValidator(parameter), _rate]
LearningRates = Annotated[Choices, BeforeValidator(_list), _rate]
Intervals = Annotated[Choices, BeforeValidator(_list), _interval]


class SpaceConfig(StrictModel):
    """The search space of a study: mask ratio, accumulation interval N and learning rate.

    ``accumulation_interval`` is the paper's name for ``gradient_accumulation_steps``. With
    ``method``, the method is searched too: masking methods then draw a mask ratio, and it is 0 for
    the others.
    """

    method: Annotated[tuple[Method, ...], Field(min_length=1)] | None = None
    mask_ratio: MaskRatio
    accumulation_interval: Intervals
    learning_rate: LearningRate

    @model_validator(mode="after")
    def _methods_fit(self) -> SpaceConfig:
        methods = self.method or ()
        if len(set(methods)) < len(methods):
            raise ValueError(f"method: expected each method once, got {list(methods)}")
        if set(methods) & set(MASKING) and min(self.mask_ratio.values()) <= 0:
            raise ValueError(
                "mask_ratio 0 is plain fine-tuning, which a space with 'method' calls sft: "
                "expected ratios above 0"
            )
        return self

    def parameters(self) -> dict[str, FloatRange | Choices]:
        """The three parameters by name."""
        return {
            "mask_ratio": self.mask_ratio,
            "accumulation_interval": self.accumulation_interval,
            "learning_rate": self.learning_rate,
        }

    def intervals(self) -> tuple[int, ...]:
        """Every accumulation interval a trial may get."""
        return tuple(int(value) for value in self.accumulation_interval.values())

    def suggest(self, trial: Draws) -> Point:
        """Draw one point of the space."""
        method = {} if self.method is None else {"method": _draw_method(trial, self.method)}
        drawn = {name: p.suggest(trial, name) for name, p in self._of(method).items()}
        return self.point({**method, **drawn})

    def point(self, params: Mapping[str, Any]) -> Point:
        """The point that a trial's stored parameters describe."""
        return {
            **params,
            # 0.1 + 2 * 0.1 is 0.30000000000000004: round ratios to the decimal a user would type.
            "mask_ratio": round(params.get("mask_ratio", 0.0), 10),
            "accumulation_interval": int(params["accumulation_interval"]),
        }

    def grid(self) -> list[Point]:
        """Every point of a finite space, as Optuna stores it.

        Raises:
            ValueError: the space is infinite (names the parameter) or too large.
        """
        methods = [{}] if self.method is None else [{"method": name} for name in self.method]
        values = {name: _grid_of(name, p) for name, p in self._used(methods).items()}
        if (points := prod(map(len, values.values()))) > MOST_POINTS:
            raise ValueError(
                f"the grid has {points:,} points: expected at most {MOST_POINTS:,}; give fewer "
                "values or another search.sampler"
            )
        return [
            {**method, **dict(zip(parameters, chosen, strict=True))}
            for method in methods
            for parameters in [self._of(method)]
            for chosen in product(*(values[name] for name in parameters))
        ]

    def check_point(self, point: Mapping[str, float | str]) -> None:
        """Reject a starting point outside the space.

        Raises:
            ValueError: names the parameter and the values the space allows.
        """
        given = dict(point)
        if "method" in given:
            self._check_given(given)
        for name, value in given.items():
            if name != "method" and not (allowed := self.parameters()[name]).contains(value):
                raise ValueError(
                    f"search.start: {name} {value} is outside the space: expected {allowed}"
                )

    def _check_given(self, point: Mapping[str, float | str]) -> None:
        method = point["method"]
        if method not in (self.method or ()):
            named = "no method, because space.method is not given"
            expected = named if self.method is None else "one of " + ", ".join(self.method)
            raise ValueError(
                f"search.start: method {method} is outside the space: expected {expected}"
            )
        if "mask_ratio" in point and method not in MASKING:
            raise ValueError(f"search.start: the method {method} has no mask_ratio: expected none")

    def _used(self, methods: Sequence[Mapping[str, Any]]) -> dict[str, FloatRange | Choices]:
        """The numeric parameters that any of these methods has."""
        return {name: p for method in methods for name, p in self._of(method).items()}

    def _of(self, point: Mapping[str, Any]) -> dict[str, FloatRange | Choices]:
        """The numeric parameters of a point with this method."""
        masks = point.get("method", MASKING[0]) in MASKING
        return {n: p for n, p in self.parameters().items() if masks or n != "mask_ratio"}


def _draw_method(trial: Draws, methods: tuple[Method, ...]) -> str:
    return str(trial.suggest_categorical("method", methods))


def _grid_of(name: str, allowed: FloatRange | Choices) -> tuple[float, ...]:
    try:
        return allowed.grid()
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
