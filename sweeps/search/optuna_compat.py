"""Names of Optuna that it does not promise to keep, each with what its public API lacks.

`tests/test_compat.py` fails with a sentence where one of them has gone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

_QUEUED = "fixed_params"


def queued_params(trial: FrozenTrial) -> dict[str, Any]:
    """What `Study.enqueue_trial` was given for a trial; empty for one that was drawn.

    Public is only a trial's parameters, which it has once they were asked for.
    """
    given: dict[str, Any] = trial.system_attrs.get(_QUEUED, {})
    return given


def is_queued(trial: FrozenTrial) -> bool:
    """Whether a trial was queued, perhaps without any value; see `queued_params`."""
    return _QUEUED in trial.system_attrs


def queued_attrs(before: FrozenTrial, params: Mapping[str, Any]) -> dict[str, Any]:
    """The system attributes of a trial that goes on with ``before`` at these parameters.

    `Study.enqueue_trial` gives none of what pruner and sampler noted of the trial before.
    """
    return {**before.system_attrs, _QUEUED: dict(params)}


def kept_attrs(trial: FrozenTrial) -> dict[str, Any]:
    """What pruner and sampler noted of a trial that holds in another space too.

    The model of CMA-ES has the old space's dimensions. Constraints are set anew.
    """
    own = trial.system_attrs.items()
    return {name: value for name, value in own if not name.startswith(("cma:", "constraints"))}


def stored(trial: optuna.Trial) -> FrozenTrial:
    """What is on record of a running trial, its intermediate values among it, which `Trial` does
    not show. `Study.trials` reads all trials for it."""
    return trial.storage.get_trial(trial._trial_id)


def storage_of(study: optuna.Study) -> BaseStorage:
    """What a study was opened with: no second `Study` can be made of one without it."""
    return study._storage


def set_attr(study: optuna.Study, trial: FrozenTrial | optuna.Trial, name: str, to: Any) -> None:
    """Set a user attribute of a running trial, also of another process: `FrozenTrial` sets it in
    memory alone."""
    study._storage.set_trial_user_attr(trial._trial_id, name, to)


def set_constraint(study: optuna.Study, trial: FrozenTrial, name: str, amount: float) -> None:
    """Set a constraint of a running trial on record: `FrozenTrial` sets it in memory alone."""
    study._storage.set_trial_system_attr(trial._trial_id, f"constraints:{name}", amount)


def name_objectives(study: optuna.Study, names: Sequence[str]) -> None:
    """Name the objectives for dashboards, without the warning that the function may change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(names))


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value can be drawn: only its own draws are checked by public functions."""
    return distribution._contains(distribution.to_internal_repr(value))
