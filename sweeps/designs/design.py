"""Fixed designs: which trials a study consists of, given what has finished so far."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

from sweeps.designs.point import DesignPoint
from sweeps.report.data import TrialRow
from sweeps.report.settings import Rows, Setting, scored_at

FRESH_SEEDS_FROM, TUNING_SEEDS_FROM = 1_000_000, 2_000_000
"""Added to the sweep's seed: the stages share no seed."""


@final
@dataclass(frozen=True)
class Plan:
    """What every design needs to know. `combinations`: (accumulation interval, learning rate)."""

    seed: int
    seeds: int
    tuning_seeds: int
    fresh_seeds: int
    combinations: tuple[tuple[int, float], ...]


class Design(ABC):
    """A study's trials in stages: tuning, replicates, and what follows from those.

    Everything is a function of the finished trials, so a study goes on where it stopped, and
    grows when it is given more seeds.
    """

    arms: ClassVar[tuple[str, ...]] = ("method", "mask_ratio")
    """The parameters that tell the arms apart."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @abstractmethod
    def settings(self) -> list[Setting]:
        """The arms that are trained."""

    def further(self, rows: Rows) -> list[DesignPoint]:
        """Trials that follow from all replicates; called once these have ended."""
        return []

    @abstractmethod
    def keeps_model(self, row: TrialRow, rows: Rows) -> bool:
        """Whether a trial's weights are still needed."""

    @abstractmethod
    def tested(self, rows: Rows) -> list[TrialRow]:
        """The trials whose models are scored on the test items, once, at the very end."""

    @final
    def points(self, rows: Rows) -> list[DesignPoint]:
        """Every trial that can be named so far; the study is complete when all have ended."""
        tuning = self._tuning()
        if not ended(tuning, rows):
            return tuning
        replicates = [point for s in self.settings() for point in self._replicates(s, rows)]
        known = [*tuning, *replicates]
        return known if not ended(known, rows) else [*known, *self.further(rows)]

    def _tuning(self) -> list[DesignPoint]:
        """Equal budget for every arm: each combination, on seeds that nothing else uses."""
        plan = self.plan
        if len(plan.combinations) == 1:
            return []
        first = plan.seed + TUNING_SEEDS_FROM
        return [
            _point(setting, combination, seed, "tuning")
            for setting in self.settings()
            for combination in plan.combinations
            for seed in range(first, first + plan.tuning_seeds)
        ]

    def _replicates(self, setting: Setting, rows: Rows) -> list[DesignPoint]:
        seeds = range(self.plan.seed, self.plan.seed + self.plan.seeds)
        best = self.combination(setting, rows)
        return [_point(setting, best, seed, "replicate") for seed in seeds]

    @final
    def combination(self, setting: Setting, rows: Rows) -> tuple[int, float]:
        """The nuisance parameters of an arm: its best in tuning, the first of equals."""
        means: dict[tuple[int, float], float] = {}
        for combination in self.plan.combinations:
            scores = [
                row.score
                for row in scored_at(rows, setting, "tuning")
                if (row.accumulation_interval, row.learning_rate) == combination
                and row.score is not None
            ]
            # A combination of which a try failed or diverged is not the best.
            if len(scores) == self.plan.tuning_seeds:
                means[combination] = sum(scores) / len(scores)
        return max(means, key=lambda c: means[c], default=self.plan.combinations[0])

    @final
    def fresh(self, setting: Setting, rows: Rows) -> list[DesignPoint]:
        """The same arm on seeds that took no part in choosing it."""
        first = self.plan.seed + FRESH_SEEDS_FROM
        best = self.combination(setting, rows)
        seeds = range(first, first + self.plan.fresh_seeds)
        return [_point(setting, best, seed, "fresh") for seed in seeds]


def ended(points: Iterable[DesignPoint], rows: Rows) -> bool:
    """Whether each of these trials has finished, or failed for good."""
    done = {DesignPoint.of(row) for row in rows if row.state in ("finished", "failed")}
    return all(point in done for point in points)


def _point(setting: Setting, combination: tuple[int, float], seed: int, stage: str) -> DesignPoint:
    interval, rate = combination
    return DesignPoint(
        setting.method, setting.mask_ratio, interval, rate, seed, stage, setting.train_fraction
    )
