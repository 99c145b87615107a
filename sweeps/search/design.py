"""Fixed designs: which trials a study runs, given the trials finished so far.

A trial of a design has an arm, nuisance parameters, a seed and a stage.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, final

from sweeps.config.space import Point
from sweeps.report.arms import Rows, Setting, scored_at
from sweeps.report.trial_row import FRESH, TrialRow

if TYPE_CHECKING:
    import optuna


Combination = tuple[int, float]
TRAINED = ("sft", "hft", "random", "gmt", "lora", "shira")
DROPS = ("drop_trivial", "drop_random", "drop_salient")
DERIVED = ("pretrained", *DROPS, "dare")
"""Scored without training: the base model, and SFT models after a drop."""

METHODS = (*TRAINED, *DERIVED)
REPLICATE = "replicate"
STAGES = ("tuning", REPLICATE, FRESH)
MOST = 2**31 - 1


@final
@dataclass(frozen=True)
class DesignPoint:
    """One trial of a design; `mask_ratio` is the drop rate if `method` is a drop."""

    method: str
    mask_ratio: float
    accumulation_interval: int
    learning_rate: float
    seed: int
    stage: str
    train_fraction: float = 1.0

    def params(self) -> Point:
        """The point as Optuna stores it."""
        return asdict(self)

    @classmethod
    def of(cls, row: TrialRow) -> DesignPoint:
        """The point of a recorded trial."""
        return cls(**{field.name: getattr(row, field.name) for field in fields(cls)})


@final
class DesignSpace:
    """The space `StudySearch` draws from; its bounds never change, so a study can grow."""

    def suggest(self, trial: optuna.Trial) -> Point:
        """The queued point of the trial."""
        return self.point(
            {
                "method": trial.suggest_categorical("method", METHODS),
                "mask_ratio": trial.suggest_float("mask_ratio", 0.0, 1.0),
                "accumulation_interval": trial.suggest_int("accumulation_interval", 1, MOST),
                "learning_rate": trial.suggest_float("learning_rate", 1e-30, 1e30),
                "seed": trial.suggest_int("seed", 0, MOST),
                "stage": trial.suggest_categorical("stage", STAGES),
                "train_fraction": trial.suggest_float("train_fraction", 0.0, 1.0),
            }
        )

    def point(self, params: dict[str, Any]) -> Point:
        """The point that a trial's stored parameters describe."""
        return dict(params)


FRESH_SEEDS_FROM, TUNING_SEEDS_FROM = 1_000_000, 2_000_000
"""Added to the sweep's seed, so that no two stages share a seed."""


@final
@dataclass(frozen=True)
class Plan:
    """Seeds and nuisance parameters.

    `combinations`: (accumulation interval, learning rate); `own`: those of methods that have
    others, as many.
    """

    seed: int
    seeds: int
    tuning_seeds: int
    fresh_seeds: int
    combinations: tuple[Combination, ...]
    own: Mapping[str, Sequence[Combination]] = field(default_factory=dict)

    def of(self, setting: Setting) -> Sequence[Combination]:
        """The combinations that an arm is tuned over."""
        return self.own.get(setting.method, self.combinations)


class Design(ABC):
    """A study's trials in stages: tuning, replicates, and trials that follow from those.

    All trials follow from the finished ones, so a study resumes where it stopped and grows when it
    is given more seeds.
    """

    arms: ClassVar[tuple[str, ...]] = ("method", "mask_ratio")
    """The parameters that distinguish the arms."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @abstractmethod
    def settings(self) -> list[Setting]:
        """The arms to train."""

    def further(self, rows: Rows) -> list[DesignPoint]:
        """Trials that depend on the replicates; called once all of those have ended."""
        return []

    def keeps_model(self, row: TrialRow) -> bool:
        """Whether a trial's weights are still needed."""
        return False

    def tested(self, rows: Rows) -> list[TrialRow]:
        """The trials whose models are scored once on the test items, at the very end.

        None by default: where nothing is selected, validation scores are unbiased.
        """
        return []

    @final
    def points(self, rows: Rows) -> list[DesignPoint]:
        """Every trial known so far; the study is complete when all have ended."""
        tuning = self._tuning()
        if not ended(tuning, rows):
            return tuning
        replicates = [point for s in self.settings() for point in self._replicates(s, rows)]
        known = [*tuning, *replicates]
        return known if not ended(known, rows) else [*known, *self.further(rows)]

    def _tuning(self) -> list[DesignPoint]:
        """Equal budget for every arm: each combination, on seeds used nowhere else."""
        plan = self.plan
        if len(plan.combinations) == 1:
            return []
        first = plan.seed + TUNING_SEEDS_FROM
        return [
            _point(setting, combination, seed, "tuning")
            for setting in self.settings()
            for combination in plan.of(setting)
            for seed in range(first, first + plan.tuning_seeds)
        ]

    def _replicates(self, setting: Setting, rows: Rows) -> list[DesignPoint]:
        seeds = range(self.plan.seed, self.plan.seed + self.plan.seeds)
        best = self.combination(setting, rows)
        return [_point(setting, best, seed, "replicate") for seed in seeds]

    @final
    def combination(self, setting: Setting, rows: Rows) -> Combination:
        """The nuisance parameters of an arm: its best in tuning, the first one in a tie."""
        means: dict[Combination, float] = {}
        for combination in self.plan.of(setting):
            scores = [
                row.score
                for row in scored_at(rows, setting, "tuning")
                if (row.accumulation_interval, row.learning_rate) == combination
                and row.score is not None
            ]
            # Skip a combination if any of its trials failed or diverged.
            if len(scores) == self.plan.tuning_seeds:
                means[combination] = sum(scores) / len(scores)
        return max(means, key=lambda c: means[c], default=self.plan.of(setting)[0])

    @final
    def fresh(self, setting: Setting, rows: Rows) -> list[DesignPoint]:
        """The same arm on seeds that were not used to select it."""
        first = self.plan.seed + FRESH_SEEDS_FROM
        best = self.combination(setting, rows)
        seeds = range(first, first + self.plan.fresh_seeds)
        return [_point(setting, best, seed, "fresh") for seed in seeds]


def ended(points: Iterable[DesignPoint], rows: Rows) -> bool:
    """Whether each of these trials has finished, or failed for good."""
    done = {DesignPoint.of(row) for row in rows if row.state in ("finished", "failed")}
    return all(point in done for point in points)


def _point(setting: Setting, combination: Combination, seed: int, stage: str) -> DesignPoint:
    interval, rate = combination
    return DesignPoint(
        setting.method, setting.mask_ratio, interval, rate, seed, stage, setting.train_fraction
    )
