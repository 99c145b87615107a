"""Early stopping with Optuna's pruners; their state is in the study's storage."""

from __future__ import annotations

from collections.abc import Container
from typing import final

import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
)
from optuna.trial import FrozenTrial, TrialState

from sweeps.config.search_config import SearchConfig
from sweeps.config.search_space import MASKING
from sweeps.search.attempt_records import EARLIER, NUMBER, REQUEST, draw_index
from sweeps.search.optuna_compat import storage_of

SFT = "sft"


def build_pruner(search: SearchConfig, checks: int) -> BasePruner:
    """The pruner with this name.

    Its steps are validation checks, 1 to ``checks``, not updates: the number of updates for the
    same examples depends on the accumulation interval.
    """
    asked, grace = search.scheduler, search.scheduler.grace_checks
    startup = search.startup_trials
    match asked.name:
        case "none":
            return NopPruner()
        case "asha":
            return SuccessiveHalvingPruner(
                min_resource=grace, reduction_factor=asked.reduction_factor
            )
        case "hyperband":
            return HyperbandPruner(
                min_resource=grace,
                max_resource=max(grace, checks),
                reduction_factor=asked.reduction_factor,
            )
        case "median":
            return MedianPruner(n_startup_trials=startup, n_warmup_steps=grace)
        case "percentile":
            return PercentilePruner(
                asked.percentile, n_startup_trials=startup, n_warmup_steps=grace
            )
        case "patient":
            median = MedianPruner(n_startup_trials=startup, n_warmup_steps=grace)
            return PatientPruner(median, patience=asked.patience)


def is_spared(trial: optuna.Trial, starts: int) -> bool:
    """Whether a trial always runs to its end, because others are compared with it.

    These are plain fine-tuning, the first ``starts`` drawn trials (the points of
    ``search.start``), and forks, which have no parameters to compare.
    """
    ratio, method = trial.params.get("mask_ratio", 0.0), trial.params.get("method", SFT)
    is_control = round(ratio, 10) == 0 and method in (SFT, *MASKING)  # as `TrialRow.is_sft`
    is_drawn = NUMBER in trial.user_attrs and REQUEST not in trial.user_attrs
    return is_control or (is_drawn and draw_index(trial.study, trial) < starts)


@final
class LatestAttempts(optuna.Study):
    """The study as its pruner must see it: only the latest attempt of each trial."""

    def __init__(self, study: optuna.Study, superseded: Container[int]) -> None:
        """``superseded``: Optuna's numbers of the attempts to leave out."""
        super().__init__(study.study_name, storage_of(study), study.sampler, study.pruner)
        self._superseded = superseded

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials without superseded attempts and those outside the space."""
        trials = super().get_trials(deepcopy, states)
        return [
            trial
            for trial in trials
            if trial.number not in self._superseded and EARLIER not in trial.user_attrs
        ]
