"""How a space is searched: sampler, early stopping, objectives and replicates."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sweeps.config.space import MASKING
from sweeps.finetune.strict_model import StrictModel

Objective = Literal["score", "kept_fraction", "seconds"]
DIRECTIONS: dict[Objective, Literal["maximize", "minimize"]] = {
    "score": "maximize",
    "kept_fraction": "minimize",
    "seconds": "minimize",
}
"""`kept_fraction`: the share of gradient elements that the mask kept, as measured, averaged over
updates. `seconds`: training time without validation."""


class SchedulerConfig(StrictModel):
    """Early stopping by an Optuna pruner on the score at each validation check except the last.

    ``none`` stops no trial. ``grace_checks``: no trial is stopped before this check. ``asha`` and
    ``hyperband`` continue one in ``reduction_factor`` of the trials that reach a rung; the first
    rung is at ``grace_checks``. ``median`` stops trials below the median of finished trials at the
    same check. ``percentile`` stops those outside the best ``percentile`` percent. ``patient``
    stops those below the median without improvement over ``patience`` checks. These three wait for
    ``search.startup_trials`` finished trials.
    """

    name: Literal["asha", "hyperband", "median", "percentile", "patient", "none"] = "none"
    grace_checks: Annotated[int, Field(ge=1)] = 1
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    percentile: Annotated[float, Field(gt=0, lt=100)] = 25.0
    patience: Annotated[int, Field(ge=1)] = 1


class StartingPoint(StrictModel):
    """A point to try first; the sampler draws the parameters it leaves out."""

    method: str | None = None
    mask_ratio: float | None = None
    accumulation_interval: int | None = None
    learning_rate: float | None = None

    def given(self) -> dict[str, float | str]:
        """The parameters that the point fixes."""
        return {name: value for name, value in self if value is not None}

    def is_whole(self) -> bool:
        """Whether it fixes every parameter."""
        masks = self.method is None or self.method in MASKING
        given = self.given()
        needed = ["accumulation_interval", "learning_rate", *(["mask_ratio"] if masks else [])]
        return all(name in given for name in needed)


class ReplicatesConfig(StrictModel):
    """After the search, run its ``best`` points again, each with ``seeds`` new seeds.

    The replicates show how much of a score is luck. They are not used for selection.
    """

    best: Annotated[int, Field(ge=1)]
    seeds: Annotated[int, Field(ge=1, le=1000)]


class SearchConfig(StrictModel):
    """How the space is searched.

    ``trials``: the number of trials, each at a different point, so a finite space may allow fewer;
    a ``grid`` runs each of its points once instead. ``startup_trials``: the random trials before
    ``tpe`` and ``gp`` use their model, and the population size of ``nsga2``. ``start``: points
    tried before the sampler's own. Several ``objectives`` give a Pareto front; the best trial is
    still the one with the highest score.
    """

    trials: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    sampler: Literal["tpe", "random", "qmc", "grid", "gp", "nsga2"] = "tpe"
    startup_trials: Annotated[int, Field(ge=1)] = 4
    scheduler: SchedulerConfig = SchedulerConfig()
    start: tuple[StartingPoint, ...] = ()
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)] = ("score",)
    replicates: ReplicatesConfig | None = None

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
        if self.sampler == "grid" and self.start:
            raise ValueError("start: a grid already contains all points; expected no start")
        whole = [point for point in self.start if point.is_whole()]
        for index, point in enumerate(whole):
            if point in whole[:index]:
                raise ValueError(f"start: expected each point once, got {point.given()} twice")
        if self.sampler == "nsga2" and self.startup_trials < 2:
            raise ValueError("startup_trials 1: expected 2 or more, the population of nsga2")
        return self
