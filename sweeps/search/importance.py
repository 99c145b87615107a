"""How much of the score's variance each parameter explains: Optuna's fANOVA on a fixed design."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import optuna
from optuna.distributions import FloatDistribution

from sweeps.report.arms import Interval
from sweeps.report.trial_row import TrialRow

PARAMETERS = ("mask_ratio", "accumulation_interval", "learning_rate")
RESAMPLES, TREES, LEAST = 20, 32, 8
"""Bootstrap samples of trials; trees of each forest; the fewest trials for an estimate."""


def importances(rows: Sequence[TrialRow], seed: int = 0) -> tuple[tuple[str, Interval], ...]:
    """The share of variance due to each parameter that varies in the tuning grid, largest first.

    Replicates are left out, because they ran only at each ratio's best nuisance parameters. Empty
    if fewer than two parameters vary or there are too few trials.
    """
    grid = [r for r in rows if r.stage == "tuning" and r.state == "finished"]
    varying = [p for p in PARAMETERS if len({getattr(r, p) for r in grid}) > 1]
    if len(varying) < 2 or len(grid) < LEAST or len({r.score for r in grid}) < 2:
        return ()
    random = np.random.default_rng(seed)
    whole = _shares(grid, varying, seed)
    samples = []
    for number in range(RESAMPLES):
        drawn = [grid[i] for i in random.integers(len(grid), size=len(grid))]
        samples.append(_shares(drawn, varying, seed + number))
    results = []
    for name in varying:
        low, high = np.quantile([sample[name] for sample in samples], [0.025, 0.975])
        results.append((name, Interval(whole[name], float(low), float(high))))
    return tuple(sorted(results, key=lambda pair: -pair[1].estimate))


def _shares(rows: Sequence[TrialRow], names: Sequence[str], seed: int) -> dict[str, float]:
    from optuna.importance import FanovaImportanceEvaluator  # imports all of scikit-learn

    study = optuna.create_study(direction="maximize")
    for row in rows:
        params = {name: float(getattr(row, name)) for name in names}
        study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions={name: _distribution(name, rows) for name in names},
                value=row.score,
            )
        )
    evaluator = FanovaImportanceEvaluator(n_trees=TREES, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(found.get(name, 0.0)) for name in names}


def _distribution(name: str, rows: Sequence[TrialRow]) -> FloatDistribution:
    values = [float(getattr(row, name)) for row in rows]
    low, high = min(values), max(values)
    return FloatDistribution(low, high if high > low else low * 1.01 + 1e-9)
