"""Optuna's samplers by name."""

from __future__ import annotations

import warnings

import optuna
from optuna.samplers import BaseSampler

from sweeps.settings.search_config import SearchConfig


def build_sampler(search: SearchConfig, seed: int, recorded: int) -> BaseSampler:
    """The sampler by name; its seed moves on with the trials that are recorded already.

    A sampler that starts again from the same seed, as after a resume, would suggest again what it
    suggested first. A grid's points are queued, all of them (see `sweeps.search.agenda`), so that
    nothing is left to its sampler: Optuna's own ends a study by a call that only works within
    `optimize`.
    """
    seed = (seed * 100_003 + recorded) % 2**32
    with warnings.catch_warnings():
        # Multivariate TPE has been "experimental" for years and is what Optuna advises.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match search.sampler:
            case "random" | "grid":
                return optuna.samplers.RandomSampler(seed=seed)
            case "qmc":
                return optuna.samplers.QMCSampler(seed=seed, scramble=True)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=search.startup_trials)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(
                    seed=seed, population_size=search.startup_trials
                )
            case "tpe":
                return optuna.samplers.TPESampler(
                    seed=seed,
                    n_startup_trials=search.startup_trials,
                    multivariate=True,
                    group=True,
                    constant_liar=True,
                )
