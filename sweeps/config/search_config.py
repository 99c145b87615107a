"""How a space is searched: sampler, early stopping, objectives and replicates."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    RootModel,
    field_validator,
    model_validator,
)

from sweeps.config.search_space import SpaceConfig, identity, is_whole
from sweeps.config.searched_parameter import Choices
from sweeps.config.trial_keys import Value, check_key, checked, flat, stored
from sweeps.finetune.strict_model import StrictModel
from sweeps.storage.errors import nearest

Objective = Literal["score", "kept_fraction", "seconds", "forgetting"]
DIRECTIONS: dict[Objective, Literal["maximize", "minimize"]] = {
    "score": "maximize",
    "kept_fraction": "minimize",
    "seconds": "minimize",
    "forgetting": "minimize",
}
"""`kept_fraction`: the share of gradient elements that the mask kept, as measured, averaged over
updates. `seconds`: training time without validation. `forgetting`: the bits per byte of the text
of `evaluation.forgetting` at the end."""

SAMPLERS = ("tpe", "gp", "cmaes", "nsga2", "nsga3", "qmc", "random", "grid")


class SchedulerConfig(StrictModel):
    """Early stopping by an Optuna pruner on the score at each validation check except the last."""

    name: Literal["asha", "hyperband", "median", "percentile", "patient", "none"] = "none"
    """`asha` and `hyperband` continue the best at each rung; `median` and `percentile` stop trials
    below that of finished trials at the same check; `patient` stops those below the median that no
    longer improve. None proved good enough to be the default (docs/studies.md)."""
    grace_checks: Annotated[int, Field(ge=1)] = 1
    """No trial is stopped before this check; the first rung of `asha` and `hyperband`."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """`asha` and `hyperband` continue one in this many trials."""
    percentile: Annotated[float, Field(gt=0, lt=100)] = 25.0
    """`percentile` stops trials outside this best share, in percent."""
    patience: Annotated[int, Field(ge=1)] = 1
    """`patient` waits this many checks for an improvement."""


def _stored_value(item: tuple[str, Any]) -> Value:
    check_key(item[0])
    return stored(checked(*item))


def _with_keys(tree: Any) -> Any:
    if not isinstance(tree, Mapping):
        return tree
    return {key: (key, value) for key, value in flat(tree).items()}


def _given(tree: Any) -> Any:
    is_tree = isinstance(tree, Mapping)
    return {k: v for k, v in tree.items() if v is not None} if is_tree else tree


_Stored = dict[str, Annotated[Value, BeforeValidator(_stored_value)]]
Values = Annotated[_Stored, BeforeValidator(_with_keys)]
"""Values of a point by key, as they are stored."""

StartingPoint = Annotated[Values, BeforeValidator(_given)]
"""A point to try first, by key; the sampler draws the parameters it leaves out."""


class AskedPoint(RootModel[Values]):
    """What a person asks a search to try, or to change in a trial."""


def _bound(constraint: str) -> tuple[Objective, int, float]:
    """The quantity of a constraint, 1 for an upper bound or -1 for a lower one, and the bound."""
    found = re.fullmatch(r"\s*(\w+)\s*(<=|>=)\s*(\S+)\s*", constraint)
    try:
        name, relation, bound = found.groups() if found else ("", "", "")
        number = float(bound)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"expected a quantity, <= or >=, and a number, such as 'kept_fraction <= 0.5', got "
            f"'{constraint}'"
        )
    if name not in DIRECTIONS:
        raise ValueError(f"unknown quantity '{name}' ({nearest(name, [*DIRECTIONS])})")
    return name, 1 if relation == "<=" else -1, number


def bounded(constraint: str) -> Objective:
    """The quantity that a constraint bounds."""
    return _bound(constraint)[0]


def excess(constraint: str, value: float) -> float:
    """By how much a value violates a constraint; 0 or less if it does not."""
    _, sign, bound = _bound(constraint)
    return sign * (value - bound)


def _checked_constraint(text: str) -> str:
    name, sign, bound = _bound(text)
    return f"{name} {'<=' if sign > 0 else '>='} {bound:g}"


Constraint = Annotated[str, AfterValidator(_checked_constraint)]


class FreshSeedsConfig(StrictModel):
    """After the search, run its best points again with new seeds; not used for selection. A plain
    number is `seeds` of the best point."""

    best: Annotated[int, Field(ge=1)] = 1
    """The number of points."""
    seeds: Annotated[int, Field(ge=0, le=1000)] = 0
    """New seeds of each point."""


def _fresh_seeds(given: Any) -> Any:
    return {"seeds": given} if isinstance(given, int) and not isinstance(given, bool) else given


def _replicates(given: Any) -> Any:
    if isinstance(given, Mapping):
        raise ValueError(
            "expected the number of seeds of each point; for {best, seeds}, trained after the "
            "search, use search.fresh_seeds"
        )
    return given


class SearchConfig(StrictModel):
    """How the space is searched."""

    trials: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """The number of trials, each at another point; a finite space may allow fewer, and a `grid`
    runs each of its points once instead."""
    sampler: str = "tpe"
    """`tpe`, `gp`, `cmaes`, `nsga2`, `nsga3`, `qmc`, `random`, `grid`, or `module:Class`, an
    Optuna sampler of your own."""
    startup_trials: Annotated[int, Field(ge=1)] = 4
    """Random trials before `tpe`, `gp` and `cmaes` use their model, and finished trials before
    `median`, `percentile` and `patient` stop any; the population of `nsga2` and `nsga3`."""
    scheduler: SchedulerConfig = SchedulerConfig()
    """Early stopping by an Optuna pruner, on the score at each validation check but the last."""
    start: tuple[StartingPoint, ...] = ()
    """Points tried first; the sampler draws the parameters that a point leaves out."""
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)] = ("score",)
    """`score` first, then perhaps `kept_fraction`, `seconds` or `forgetting`: a Pareto front. The
    best trial is still the one with the highest score."""
    constraints: tuple[Constraint, ...] = ()
    """Bounds on results, as `seconds <= 600`; a trial that violates one is never the best."""
    replicates: Annotated[int, Field(ge=1, le=1000), BeforeValidator(_replicates)] = 1
    """Seeds that each point is trained with; its score is their mean."""
    fresh_seeds: Annotated[FreshSeedsConfig, BeforeValidator(_fresh_seeds)] = FreshSeedsConfig()
    """New seeds for the best points, after the search; not used for selection. A plain number is
    `seeds` of the best point."""

    @field_validator("sampler")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in SAMPLERS and not re.fullmatch(r"\w+(\.\w+)*:\w+", name):
            raise ValueError(
                f"unknown value '{name}' ({nearest(name, [*SAMPLERS])}), or give module:Class"
            )
        return name

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.objectives[0] != "score" or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(
                f"objectives {list(self.objectives)}: expected score first and no duplicates"
            )
        if len(self.objectives) > 1 and self.scheduler.name != "none":
            raise ValueError(
                f"scheduler.name {self.scheduler.name}: with several objectives, the score alone "
                "does not show which trials are unpromising; expected scheduler.name none"
            )
        if self.replicates > 1 and self.scheduler.name != "none":
            raise ValueError(
                f"scheduler.name {self.scheduler.name}: with replicates, a point is judged by its "
                "mean over seeds, which no single trial shows; expected scheduler.name none"
            )
        if self.sampler == "grid" and self.start:
            raise ValueError("start: a grid already contains all points; expected no start")
        if self.sampler in ("nsga2", "nsga3") and self.startup_trials < 2:
            raise ValueError(
                f"startup_trials 1: expected 2 or more, the population of {self.sampler}"
            )
        return self

    def check_space(self, space: SpaceConfig) -> None:
        """Check that the sampler can draw from a space, and that it has the starting points.

        Raises:
            ValueError: names the parameter or the point.
        """
        if self.sampler == "grid":
            try:
                space.grid()
            except ValueError as error:
                raise ValueError(f"space.{error}") from None
        if self.sampler == "cmaes":
            self._check_ranges(space)
        for point in self.start:
            space.check_point(point)
        whole = [point for point in self.start if is_whole(space, point)]
        places = [identity(space, point) for point in whole]
        for index, place in enumerate(places):
            if place in places[:index]:
                raise ValueError(
                    f"search.start: expected each point once, got {whole[index]} twice"
                )

    def _check_ranges(self, space: SpaceConfig) -> None:
        if len(self.objectives) > 1:
            raise ValueError("search.sampler cmaes: expected the score as the only objective")
        for name, given in space.parameters().items():
            if space.condition(name) or (isinstance(given, Choices) and given.count() > 1):
                what = "has a condition" if space.condition(name) else "is a list"
                raise ValueError(
                    f"space.{name} {what}, and search.sampler cmaes draws from ranges only: "
                    "expected {low, high}, one value, or another sampler, such as tpe"
                )

    def remarks(self, space: SpaceConfig) -> Iterator[str]:
        """What the user should know before the search starts."""
        conditional = [name for name in space.parameters() if space.condition(name)]
        if conditional and self.sampler in ("gp", "nsga2", "nsga3"):
            yield (
                f"search.sampler {self.sampler} draws parameters with a condition at random "
                f"({', '.join(conditional)}); tpe learns them too"
            )
        if self.constraints and self.sampler in ("cmaes", "qmc", "random", "grid"):
            yield (
                f"search.sampler {self.sampler} draws points without regard to the constraints; "
                "they only decide which trial is the best"
            )
