"""How much of the score's variance each parameter explains: Optuna's fANOVA."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from sweeps.report.arms import Interval
from sweeps.report.trial_row import TrialRow, scored

PARAMETERS = ("mask_ratio", "accumulation_interval", "learning_rate")
RESAMPLES, TREES, LEAST, MOST = 20, 32, 8, 100
"""Bootstrap samples of trials; trees of each forest; the fewest trials for an estimate; the most
of a search that are used, for speed: its first ones, which are the least biased."""


def importances(rows: Sequence[TrialRow], seed: int = 0) -> tuple[tuple[str, Interval], ...]:
    """The share of variance due to each parameter that varies in the tuning grid, largest first.

    Replicates are left out, because they ran only at each ratio's best nuisance parameters. Empty
    if fewer than two parameters vary or there are too few trials.
    """
    grid = [r for r in rows if r.stage == "tuning" and r.state == "finished"]
    return _resampled(grid, PARAMETERS, seed)


def search_importances(
    rows: tuple[TrialRow, ...], seed: int, log: Collection[str]
) -> tuple[tuple[str, Interval], ...]:
    """The same over the finished trials of a search, for the parameters that every trial has.

    `log`: the parameters that the search draws on a logarithmic scale.
    """
    done = scored(rows)[:MOST]
    common = set.intersection(*(set(row.point()) for row in done)) if done else set()
    return _resampled(done, sorted(common), seed, log)


def _resampled(
    rows: Sequence[TrialRow], names: Sequence[str], seed: int, log: Collection[str] = ()
) -> tuple[tuple[str, Interval], ...]:
    varying = [name for name in names if len({row.point()[name] for row in rows}) > 1]
    if len(varying) < 2 or len(rows) < LEAST or len({row.score for row in rows}) < 2:
        return ()
    random = np.random.default_rng(seed)
    whole = _shares(rows, varying, seed, log)
    samples = []
    for number in range(RESAMPLES):
        drawn = [rows[i] for i in random.integers(len(rows), size=len(rows))]
        samples.append(_shares(drawn, varying, seed + number, log))
    results = []
    for name in varying:
        low, high = np.quantile([sample[name] for sample in samples], [0.025, 0.975])
        share = whole[name]  # all samples may lie on one side of it, since they repeat trials
        results.append((name, Interval(share, min(share, float(low)), max(share, float(high)))))
    return tuple(sorted(results, key=lambda pair: -pair[1].estimate))


def _shares(
    rows: Sequence[TrialRow], names: Sequence[str], seed: int, log: Collection[str]
) -> dict[str, float]:
    from optuna.importance import FanovaImportanceEvaluator  # imports all of scikit-learn

    study = optuna.create_study(direction="maximize")
    space = {
        name: _distribution([row.point()[name] for row in rows], name in log) for name in names
    }
    for row in rows:
        params = {name: row.point()[name] for name in names}
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=space, value=row.score)
        )
    evaluator = FanovaImportanceEvaluator(n_trees=TREES, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(found.get(name, 0.0)) for name in names}


def _distribution(values: Sequence[float | str], log: bool) -> BaseDistribution:
    numbers = [float(value) for value in values if not isinstance(value, str)]
    if len(numbers) < len(values):
        return CategoricalDistribution(sorted(set(values), key=str))
    low, high = min(numbers), max(numbers)
    return FloatDistribution(low, high if high > low else low * 1.01 + 1e-9, log=log)
