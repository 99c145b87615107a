"""What a searched parameter may be: a range or a list of choices, perhaps under a condition."""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose
from typing import Annotated, Any, Protocol, final

from pydantic import BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from sweeps.config.parameter_forms import FORMS, plain_form
from sweeps.config.trial_keys import (
    SHORT,
    Value,
    check_key,
    checked,
    is_whole,
    shown,
    stored,
    takes_list,
    words,
)
from sweeps.config.validation_errors import as_yaml
from sweeps.finetune.strict_model import StrictModel


class Draws(Protocol):
    """Draws values: an Optuna trial, or a draft of one."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number in a range."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """A whole number in a range."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of the choices."""


GRID_TOLERANCE = 1e-6
"""In steps: 0.3 is on the grid of 0.1 although 0.3 / 0.1 is 2.9999999999999996. For a choice, the
relative difference allowed from its recorded value."""

MOST_POINTS = 1_000_000
"""The most points of a grid or of a range with steps; more are a typo and would not fit in memory.
"""


def _conditions(when: Any) -> Any:
    if not isinstance(when, Mapping):
        raise ValueError("expected keys of the space with values, such as {method: gmt}")
    if empty := [str(key) for key, values in when.items() if values in ([], ())]:
        raise ValueError(f"{empty[0]}: expected at least one value")
    return {
        SHORT.get(str(key), str(key)): [
            stored(value) for value in (values if isinstance(values, list | tuple) else [values])
        ]
        for key, values in when.items()
    }


Conditions = Annotated[dict[str, tuple[Value, ...]], BeforeValidator(_conditions)]
"""The parameter is drawn only if each of these others has one of these values."""


@final
class FloatRange(StrictModel):
    """An interval, optionally on a grid or a logarithmic scale."""

    low: float
    """The lower end."""
    high: float
    """The upper end, which is a possible value."""
    step: Annotated[float, Field(gt=0)] | None = None
    """The distance of neighbouring values; null: any value."""
    log: bool = False
    """Draw on a logarithmic scale; without `step`."""
    when: Conditions = Field(default_factory=dict)
    """Other parameters with choices, and the values at which this one is drawn."""
    _is_whole: bool = PrivateAttr(False)

    def model_post_init(self, key: str | None) -> None:
        """`key`: of the parameter, given as the context of validation; some take only integers."""
        self._is_whole = key is not None and is_whole(key)

    @model_validator(mode="after")
    def _ordered(self) -> FloatRange:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range requires low above 0, got {self.low}")
        if self.log and self.step is not None:
            raise ValueError("a range has either a step or a logarithmic scale, not both")
        if self._is_whole and self.step is not None and self.step % 1:
            raise ValueError(f"step: expected a whole number, got {self.step:g}")
        step = self.spacing()
        if step is not None and (self.high - self.low) / step >= MOST_POINTS:
            raise ValueError(
                f"from low {self.low:g} to high {self.high:g}, a step of {step:g} gives more "
                f"than {MOST_POINTS:,} values: expected fewer, or no step"
            )
        if not self.contains(self.high):
            raise ValueError(
                f"from low {self.low:g}, steps of {step:g} do not end at high {self.high:g}"
            )
        return self

    def spacing(self) -> float | None:
        """The distance of neighbouring values; None if there is none."""
        return 1.0 if self._is_whole and self.step is None else self.step

    def values(self) -> tuple[Value, ...]:
        """The two ends, which is enough to check bounds."""
        return tuple(map(self._number, (self.low, self.high)))

    def suggest(self, trial: Draws, name: str) -> Value:
        """One value, drawn by the study's sampler."""
        if not self._is_whole:
            return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        step = int(self.step or 1)
        return trial.suggest_int(name, int(self.low), int(self.high), step=step, log=self.log)

    def contains(self, value: Any) -> bool:
        """Whether ``value`` is valid for a starting point: within the ends and on the grid."""
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        step = self.spacing()
        steps = 0.0 if step is None else (value - self.low) / step
        return bool(abs(steps - round(steps)) < GRID_TOLERANCE)

    def grid(self) -> tuple[Value, ...]:
        """Every value of a range with steps.

        Raises:
            ValueError: the range is infinite.
        """
        count, step = self.count(), self.spacing() or 0.0
        if count is None:
            raise ValueError(
                f"the sampler grid requires a finite range: expected a list, or low, high and "
                f"step, got {self}"
            )
        values = (self.low + index * step for index in range(count))
        return tuple(self._number(min(value, self.high)) for value in values)  # 3 * 0.1 > 0.3

    def count(self) -> int | None:
        """The number of values; None if infinite."""
        step = self.spacing()
        if step is None:
            return 1 if self.low == self.high else None
        return round((self.high - self.low) / step) + 1

    def place(self, value: Any) -> Value | None:
        """A key that equal values share, such as the number of steps; None if outside."""
        if not self.contains(value):
            return None
        step = self.spacing()
        return float(value) if step is None else round((value - self.low) / step)

    def _number(self, value: float) -> Value:
        return round(value) if self._is_whole else value

    def __str__(self) -> str:
        grid = f" in steps of {self.step:g}" if self.step is not None else ""
        scale = ", logarithmic" if self.log else ""
        return f"{self.low:g} to {self.high:g}{grid}{scale}{_condition(self.when)}"


@final
class Choices(StrictModel):
    """A finite set of values; each is checked against the type and bounds of its parameter."""

    model_config = ConfigDict(allow_inf_nan=True)

    choices: Annotated[tuple[Any, ...], Field(min_length=1)]
    """The values."""
    when: Conditions = Field(default_factory=dict)
    """Other parameters with choices, and the values at which this one is drawn."""

    @model_validator(mode="after")
    def _each_once(self) -> Choices:
        values = self.values()
        for index, value in enumerate(values):
            if any(equal(value, other, 1e-9) for other in values[:index]):
                raise ValueError(
                    f"{as_yaml(value)} is given twice: expected each value once, got "
                    f"{as_yaml([*self.choices])}"
                )
        return self

    def values(self) -> tuple[Value, ...]:
        """Every choice as it is stored."""
        return tuple(map(stored, self.choices))

    def grid(self) -> tuple[Value, ...]:
        """Every choice, like ``values``."""
        return self.values()

    def suggest(self, trial: Draws, name: str) -> Value:
        """One value, drawn by the study's sampler."""
        drawn: Value = trial.suggest_categorical(name, self.values())
        return drawn

    def contains(self, value: Any) -> bool:
        """Whether ``value`` is valid for a starting point."""
        return value in self.values()

    def count(self) -> int:
        """The number of values."""
        return len(self.choices)

    def place(self, value: Any) -> Value | None:
        """The choice equal to ``value`` up to rounding; None if there is none."""
        return next((one for one in self.values() if equal(one, value)), None)

    def __str__(self) -> str:
        return "one of " + ", ".join(map(shown, self.choices)) + _condition(self.when)


def equal(one: Any, other: Any, tolerance: float = GRID_TOLERANCE) -> bool:
    """Whether two stored values are the same up to rounding."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return isclose(one, other, rel_tol=tolerance)
    return bool(one == other)


def _condition(when: Mapping[str, tuple[Value, ...]]) -> str:
    parts = [f"{key} is {' or '.join(map(shown, values))}" for key, values in when.items()]
    return f", if {' and '.join(parts)}" if parts else ""


def parameter(key: str, value: Any) -> FloatRange | Choices:
    """A parameter from its YAML form, checked against the type and bounds of its key.

    The forms are a value, a list, ``{choices}`` or ``{low, high, ...}``; the last two may have a
    condition, ``when``.

    Raises:
        ValueError: the key or the form is unknown, or a value is out of bounds.
    """
    if isinstance(value, FloatRange | Choices):
        return value
    check_key(key)
    if isinstance(value, list | tuple) and takes_list(key):
        value = value if any(isinstance(one, list | tuple) for one in value) else [value]
    form = plain_form(value, words(key))
    if "choices" not in form:
        found = FloatRange.model_validate(form)
        for end in (found.low, found.high):
            checked(key, end)
        return FloatRange.model_validate(form, context=key)
    given = Choices.model_validate(form).choices
    return Choices.model_validate({**form, "choices": [checked(key, one) for one in given]})


def _of_item(item: Any) -> FloatRange | Choices:
    if not isinstance(item, tuple):
        raise ValueError(FORMS)
    return parameter(*item)


Parameter = Annotated[FloatRange | Choices, BeforeValidator(_of_item)]
"""Validated from a key and its YAML form."""
