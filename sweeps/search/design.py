"""Fixed designs: which trials a study runs, given the trials finished so far.

A trial of a design has an arm, nuisance parameters, a seed and a stage.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, final

from sweeps.config.search_space import Point
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
TUNING, REPLICATE = "tuning", "replicate"
STAGES = (TUNING, REPLICATE, FRESH)
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


FRESH_SEEDS_FROM, TUNING_SEEDS_FROM, SEARCH_SEEDS_FROM = 1_000_000, 2_000_000, 3_000_000
"""Added to the sweep's seed, so that no two stages share a seed; the last one for the search of a
paper, which its other studies take values from."""

Candidate = tuple[Setting, Combination]
"""One of the points that an arm is tuned over."""


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
    def alternatives(self) -> list[tuple[Setting, ...]]:
        """The arms to train, each as the settings that it is tuned over: several ratios or one."""

    def is_tuned(self, arm: tuple[Setting, ...]) -> bool:
        """Whether an arm has trials on tuning seeds: by default, if it has several candidates."""
        return len(self.candidates(arm)) > 1

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
        replicates = [
            point for arm in self.alternatives() for point in self._replicates(arm, rows)
        ]
        known = [*tuning, *replicates]
        return known if not ended(known, rows) else [*known, *self.further(rows)]

    @final
    def candidates(self, arm: tuple[Setting, ...]) -> list[Candidate]:
        """Each setting of an arm with each of its nuisance parameters."""
        return [(setting, each) for setting in arm for each in self.plan.of(setting)]

    @final
    def tuning_seeds(self, arm: tuple[Setting, ...]) -> range:
        """The seeds that tune an arm, used nowhere else.

        An arm with fewer candidates tries each with more seeds, so that all spend the same.
        """
        most = max(len(self.candidates(each)) for each in self.alternatives())
        first = self.plan.seed + TUNING_SEEDS_FROM
        return range(first, first + self.plan.tuning_seeds * most // len(self.candidates(arm)))

    def _tuning(self) -> list[DesignPoint]:
        return [
            _point(setting, combination, seed, TUNING)
            for arm in self.alternatives()
            if self.is_tuned(arm)
            for setting, combination in self.candidates(arm)
            for seed in self.tuning_seeds(arm)
        ]

    def _replicates(self, arm: tuple[Setting, ...], rows: Rows) -> list[DesignPoint]:
        best, first = self.chosen(arm, rows), self.plan.seed
        return [_point(*best, seed, REPLICATE) for seed in range(first, first + self.plan.seeds)]

    @final
    def chosen(self, arm: tuple[Setting, ...], rows: Rows) -> Candidate:
        """The candidate of an arm that is best in tuning, the first one in a tie."""
        means: dict[Candidate, float] = {}
        for setting, combination in self.candidates(arm):
            scores = [
                row.score
                for row in scored_at(rows, setting, TUNING)
                if (row.accumulation_interval, row.learning_rate) == combination
                and row.score is not None
            ]
            # Skip a candidate if any of its trials failed or diverged.
            if len(scores) == len(self.tuning_seeds(arm)):
                means[setting, combination] = sum(scores) / len(scores)
        return max(means, key=lambda each: means[each], default=self.candidates(arm)[0])

    @final
    def fresh(self, setting: Setting, rows: Rows) -> list[DesignPoint]:
        """The same arm on seeds that were not used to select it."""
        first = self.plan.seed + FRESH_SEEDS_FROM
        seeds, best = range(first, first + self.plan.fresh_seeds), self.chosen((setting,), rows)
        return [_point(*best, seed, "fresh") for seed in seeds]


def ended(points: Iterable[DesignPoint], rows: Rows) -> bool:
    """Whether each of these trials has finished, or failed for good."""
    done = {DesignPoint.of(row) for row in rows if row.state in ("finished", "failed")}
    return all(point in done for point in points)


def _point(setting: Setting, combination: Combination, seed: int, stage: str) -> DesignPoint:
    interval, rate = combination
    return DesignPoint(
        setting.method, setting.mask_ratio, interval, rate, seed, stage, setting.train_fraction
    )
