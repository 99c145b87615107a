"""A trial of a fixed design: its arm, its nuisance parameters, its seed and its stage."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, final

from sweeps.report.data import TrialRow
from sweeps.settings.space import Point

if TYPE_CHECKING:
    import optuna

TRAINED = ("sft", "hft", "random", "gmt")
DROPS = ("drop_trivial", "drop_random", "drop_salient")
DERIVED = ("pretrained", *DROPS)
"""Scored without training: the base model, and what is left of an SFT model after a drop."""

METHODS = (*TRAINED, *DERIVED)
REPLICATE = "replicate"
STAGES = ("tuning", REPLICATE, "fresh")
MOST = 2**31 - 1


@final
@dataclass(frozen=True)
class DesignPoint:
    """`mask_ratio` is the drop rate where `method` is a drop."""

    method: str
    mask_ratio: float
    accumulation_interval: int
    learning_rate: float
    seed: int
    stage: str
    train_fraction: float = 1.0

    def params(self) -> Point:
        """As Optuna stores it."""
        return asdict(self)

    @classmethod
    def of(cls, row: TrialRow) -> DesignPoint:
        """The point that a recorded trial stands at."""
        return cls(
            row.method,
            row.mask_ratio,
            row.accumulation_interval,
            row.learning_rate,
            row.seed,
            row.stage,
            row.train_fraction,
        )


@final
class DesignSpace:
    """What `StudySearch` asks for a point: bounds that never change, so that a study can grow."""

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
        """The point that a trial's stored parameters stand for."""
        return dict(params)
