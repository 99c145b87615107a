"""The search space: which settings vary between trials, and how points are drawn and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Self

from pydantic import ConfigDict, field_serializer, model_validator

from sweeps.config.parameter_forms import FORM_KEYS
from sweeps.config.searched_parameter import MOST_POINTS, Choices, Draws, FloatRange, Parameter
from sweeps.config.trial_keys import METHODS, Method, Value, flat, is_of_batch, is_of_method
from sweeps.finetune.strict_model import StrictModel
from sweeps.storage.errors import nearest

Point = dict[str, Value]


def plain_point(accumulation_interval: int, learning_rate: float = 1e-3) -> Point:
    """SFT at an interval, for facts independent of mask and rate, such as update counts."""
    return {
        "mask_ratio": 0.0,
        "accumulation_interval": accumulation_interval,
        "learning_rate": learning_rate,
    }


MASKING: tuple[Method, ...] = ("gmt", "random", "shira")
"""The methods with a mask ratio; half fine-tuning and LoRA freeze parts of the model instead."""


Identity = tuple[Value | None, ...]
ABSENT = "absent"
"""The place of a parameter that a point does not have."""
MOST_CHECKED = 10_000
"""The most combinations of batch sizes or method options; checking one takes a millisecond."""


class SpaceConfig(StrictModel):
    """The search space: any setting of a run by its key, such as ``batch.mini_batch``."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Parameter]

    method: Parameter | None = None
    """The methods to search over. Masking methods then draw a mask ratio; it is 0 for the others.
    """
    mask_ratio: Parameter | None = None
    """The fraction of gradient elements set to zero; 0 is SFT."""
    accumulation_interval: Parameter
    """Mini-batches per update (elsewhere ``gradient_accumulation_steps``)."""
    learning_rate: Parameter
    """The peak of the schedule."""

    @model_validator(mode="before")
    @classmethod
    def _with_keys(cls, tree: Any) -> Any:
        if not isinstance(tree, Mapping):
            return tree
        given = {key: value for key, value in tree.items() if value is not None or key != "method"}
        return {key: (key, value) for key, value in flat(given, FORM_KEYS).items()}

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.method is not None and set(self.method.values()) & set(MASKING):
            ratios = () if self.mask_ratio is None else self.mask_ratio.values()
            if any(float(ratio) <= 0 for ratio in ratios):
                raise ValueError(
                    "mask_ratio 0 is plain fine-tuning, called sft in a space with 'method': "
                    "expected ratios above 0"
                )
        for name in ("method", "accumulation_interval", "learning_rate"):
            if (found := getattr(self, name)) is not None and found.when:
                raise ValueError(f"{name} is part of every point: expected no condition (when)")
        for name, found in self._given().items():
            owner = _owner(name)
            if owner and not (self.method.contains(owner) if self.method else owner == "gmt"):
                raise ValueError(
                    f"{name} requires {owner} among the methods of the space, such as "
                    f"method: [gmt, {owner}]"
                )
            for key, values in found.when.items():
                self._check_condition(name, key, values)
        self.parameters()
        return self

    def _check_condition(self, name: str, key: str, values: tuple[Value, ...]) -> None:
        given = {each: p for each, p in self._given().items() if isinstance(p, Choices)}
        if key not in given or key == name:
            others = [each for each in given if each != name]
            raise ValueError(
                f"{name}.when: expected another parameter with a list of choices, got {key} "
                f"({nearest(key, others)})"
            )
        if outside := [value for value in values if not given[key].contains(value)]:
            raise ValueError(f"{name}.when: {key} is never {outside[0]}: expected {given[key]}")

    @field_serializer("method")
    def _as_list(self, method: Choices | None) -> list[Any] | None:
        return None if method is None else [*method.choices]

    def _given(self) -> dict[str, FloatRange | Choices]:
        named = {name: getattr(self, name) for name in type(self).model_fields}
        return {k: p for k, p in {**named, **self.__pydantic_extra__}.items() if p is not None}

    def parameters(self) -> dict[str, FloatRange | Choices]:
        """The parameters by key, each after those of its condition."""
        given, order = self._given(), dict[str, FloatRange | Choices]()

        def add(name: str, waiting: tuple[str, ...]) -> None:
            if name in waiting:
                raise ValueError(f"{name}.when: the condition depends on {name} itself")
            for key in given[name].when:
                add(key, (*waiting, name))
            order.setdefault(name, given[name])

        for name in given:
            add(name, ())
        return order

    def active(self, point: Mapping[str, Any]) -> dict[str, FloatRange | Choices]:
        """The parameters of a point, which may be partial: those whose conditions hold."""
        found: dict[str, FloatRange | Choices] = {}
        for name, each in self.parameters().items():
            if self._applies(name, {key: point.get(key) for key in found}):
                found[name] = each
        return found

    def _applies(self, name: str, drawn: Mapping[str, Any]) -> bool:
        return all(drawn.get(key) in values for key, values in self.condition(name).items())

    def condition(self, name: str) -> Mapping[str, tuple[Value, ...]]:
        """The conditions of a parameter; options of a method require this method."""
        when = self._given()[name].when
        if self.method is None or not is_of_method(name) or name == "method":
            return when
        owner = _owner(name)
        return {"method": (owner,) if owner else MASKING, **when}

    def suggest(self, trial: Draws) -> Point:
        """Draw one point of the space."""
        drawn: Point = {}
        for name, each in self.parameters().items():
            if self._applies(name, drawn):
                drawn[name] = each.suggest(trial, name)
        return self.point(drawn)

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
        used = {name: each for point in self._cases() for name, each in self.active(point).items()}
        values = {name: _grid_of(name, each) for name, each in used.items()}
        if (points := self.size()) is not None and points > MOST_POINTS:
            raise ValueError(
                f"the grid has {points:,} points: expected at most {MOST_POINTS:,}; give fewer "
                "values or another search.sampler"
            )
        return self.combinations(values)

    def size(self) -> int | None:
        """The number of points in the space; None if it is infinite."""
        total, deciding = 0, self._deciding()
        for case in self._cases():
            counts = [p.count() for name, p in self.active(case).items() if name not in deciding]
            if None in counts:
                return None
            total += prod(count for count in counts if count is not None)
        return total

    def _deciding(self) -> set[str]:
        """The parameters that conditions of others depend on."""
        return {key for name in self._given() for key in self.condition(name)}

    def _cases(self) -> list[Point]:
        """Every combination of the deciding parameters, the others at their first value."""
        return self.combinations({key: self._given()[key].grid() for key in self._deciding()})

    def combinations(self, values: Mapping[str, Sequence[Value]]) -> list[Point]:
        """Every combination of these values; other parameters have their first value."""
        points: list[Point] = [{}]
        for name, each in self.parameters().items():
            chosen = [{name: value} for value in values.get(name, each.values()[:1])]
            points = [
                {**point, **drawn}
                for point in points
                for drawn in (chosen if self._applies(name, point) else [{}])
            ]
        return points

    def checked_points(self) -> list[Point]:
        """Points that decide whether all trials can be built.

        The sizes of batches must divide each other, and options belong to methods: these occur in
        every combination (of a range of the method, its ends). Every other value occurs once.

        Raises:
            ValueError: there are too many.
        """
        given, points = self.parameters(), list[Point]()
        batch = {key: each.grid() for key, each in given.items() if is_of_batch(key)}
        method = {key: each.values() for key, each in given.items() if is_of_method(key)}
        rest = [{k: p.values()} for k, p in given.items() if k not in batch and k not in method]
        for values in (batch, method, *rest):
            if prod(map(len, values.values())) > MOST_CHECKED:
                raise ValueError(
                    f"the values of {', '.join(values)} have more than {MOST_CHECKED:,} "
                    "combinations, too many to check: expected fewer"
                )
            points += self.combinations(values)
        return points

    def check_point(self, point: Mapping[str, Value], place: str = "search.start") -> None:
        """Reject a starting point outside the space; ``place``: where it was given.

        Raises:
            ValueError: names the parameter and the values the space allows.
        """
        given = self._given()
        for name, value in point.items():
            if name not in given:
                raise ValueError(
                    f"{place}: {name} {value} is outside the space: expected no {name}, "
                    f"because space.{name} is not given"
                )
            if not given[name].contains(value):
                raise ValueError(
                    f"{place}: {name} {value} is outside the space: expected {given[name]}"
                )
            keys = self.condition(name)
            if keys.keys() <= point.keys() and not self._applies(name, point):
                others = " and ".join(f"{key} {point[key]}" for key in keys)
                raise ValueError(f"{place}: a point with {others} has no {name}: expected none")


def _owner(name: str) -> Method | None:
    """The method that alone has this option."""
    if name == "method.scope":
        return "gmt"
    return next((each for each in METHODS if name.startswith(f"method.{each}.")), None)


def _grid_of(name: str, allowed: FloatRange | Choices) -> tuple[Value, ...]:
    try:
        return allowed.grid()
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def identity(space: SpaceConfig, params: Mapping[str, Any]) -> Identity:
    """A key that is the same for equal points; None stands for a value outside the space.

    ``params``: the parameters as Optuna stores them, or a complete point.
    """
    active = space.active(params)
    return tuple(
        each.place(params.get(name)) if name in active else ABSENT
        for name, each in space.parameters().items()
    )


def is_whole(space: SpaceConfig, params: Mapping[str, Any]) -> bool:
    """Whether all parameters of a trial have been drawn."""
    return space.active(params).keys() <= params.keys()


def trials_left(trials: int, space: SpaceConfig, begun: Sequence[Mapping[str, Any]]) -> int:
    """How many of ``trials`` are still to be drawn, each at a new point.

    ``begun``: the points that are already drawn. Studies from before this rule may hold equal
    points, and a space whose bounds were changed may leave some outside.
    """
    left, points = trials - len(begun), space.size()
    if points is not None:
        known = {identity(space, point) for point in begun if is_whole(space, point)}
        left = min(left, points - sum(None not in one for one in known))
    return max(0, left)


def shortfall(trials: int, space: SpaceConfig) -> str:
    """A sentence if the space has fewer points than the trials asked for; else empty."""
    points = space.size()
    if points is None or points >= trials:
        return ""
    some = "1 point" if points == 1 else f"{points} points"
    return f"search.trials is {trials}, but the space has only {some}; each is trained once"
