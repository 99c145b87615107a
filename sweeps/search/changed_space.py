"""A search that continues in another space, as a new version of its study.

Within one study, Optuna refuses another list of choices. So every trial is copied to a new study
in the same database, with its number, folder and MLflow run. The first study names the newest
version. That is recorded last, so a change-over that was killed is done again.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from sweeps.config.search_space import Point
from sweeps.config.searched_parameter import Choices, equal
from sweeps.config.study_identity import (
    DEFINITION,
    differences,
    space_definition,
    split_definition,
)
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.config.trial_keys import shown, value_of
from sweeps.search.attempt_records import (
    EARLIER,
    FORK,
    INCOMPLETE,
    INTERRUPTED,
    KEY,
    NUMBER,
    finished_trials,
    is_void,
    point_of,
)
from sweeps.search.design import MOST, STAGES
from sweeps.search.optuna_compat import contains, is_queued, kept_attrs, queued_attrs
from sweeps.search.outcomes import judged, optuna_state
from sweeps.search.point_seeds import SCORES

NEWEST = "newest_version"
BESIDE: Mapping[str, BaseDistribution] = {
    "seed": IntDistribution(0, MOST),
    "stage": CategoricalDistribution(STAGES),
}
"""Parameters of a point's other seeds, which no space has."""

SHOWN_REASONS = 3


def recorded_study(storage: BaseStorage, name: str) -> optuna.Study | None:
    """The newest version of a study; None if there is none."""
    if name not in optuna.get_all_study_names(storage):
        return None
    study = optuna.load_study(study_name=name, storage=storage)
    newest = study.user_attrs.get(NEWEST, name)
    return study if newest == name else optuna.load_study(study_name=newest, storage=storage)


def space_changes(study: optuna.Study, config: SweepConfig, domain: str) -> list[str]:
    """A line for each difference from the space and the constraints of the study's trials."""
    _, before = split_definition(study.user_attrs.get(DEFINITION, {}))
    now = space_definition(config, domain)
    return differences(before, now) if before and now else []  # a fixed design has none


def next_version(first: optuna.Study, study: optuna.Study, storage: BaseStorage) -> optuna.Study:
    """A new study for the same objectives, still without trials; one that a killed driver left is
    removed. ``first``: the first version; ``study``: the newest."""
    number = int(study.study_name.removeprefix(first.study_name).removeprefix("@") or 1) + 1
    name = f"{first.study_name}@{number}"
    if name in optuna.get_all_study_names(storage):
        optuna.delete_study(study_name=name, storage=storage)
    return optuna.create_study(study_name=name, storage=storage, directions=study.directions)


def is_later_version(study: optuna.Study) -> bool:
    """Whether the space changed since the first trial."""
    return "@" in study.study_name


def make_newest(first: optuna.Study, study: optuna.Study) -> None:
    """Record that the study is the newest version of the first one."""
    if study.study_name != first.user_attrs.get(NEWEST, first.study_name):
        first.set_user_attr(NEWEST, study.study_name)


def carry_over(study: optuna.Study, new: optuna.Study, config: SweepConfig, domain: str) -> str:
    """Copy a study to a new one of the configured space; returns what changed and what fits.

    A trial fits if the space has a point with the same run. The others keep their place and their
    results, but no sampler sees them.
    """
    reasons = dict[int, str]()
    for trial in study.get_trials():
        try:
            copied = fitted(trial, config, domain)
        except ValueError as error:
            copied = _left(trial)
            if KEY in trial.user_attrs:
                reasons[trial.user_attrs[NUMBER]] = " ".join(str(error).split())
        new.add_trial(copied)
    for name, value in study.user_attrs.items():
        if name != NEWEST:
            new.set_user_attr(name, value)
    changes = "; ".join(space_changes(study, config, domain))
    return f"the space changed ({changes}): {_said(len(finished_trials(new)), reasons)}"


def preview(study: optuna.Study, config: SweepConfig, domain: str) -> tuple[optuna.Study, str]:
    """The study as a driver would continue it, and what it would say of a changed space."""
    if not space_changes(study, config, domain):
        return study, ""
    new = optuna.create_study(directions=study.directions)  # in memory
    return new, carry_over(study, new, config, domain)


def _said(fitting: int, reasons: Mapping[int, str]) -> str:
    said = f"{fitting} ended {'trial fits' if fitting == 1 else 'trials fit'} and count"
    if not reasons:
        return f"{said}; none is left out"
    some = "; ".join(f"trial {n}: {why}" for n, why in [*reasons.items()][:SHOWN_REASONS])
    more = f"; and {len(reasons) - SHOWN_REASONS} more" if len(reasons) > SHOWN_REASONS else ""
    return f"{said}; on record only: {some}{more}"


def point_in(config: SweepConfig, domain: str, point: Mapping[str, Any]) -> Point:
    """The parameters at which the configured space has the run of a recorded point.

    A parameter that the point lacks has the value that its run had.

    Raises:
        ValueError: the space has no such point; names the parameter.
    """
    space, run, params = config.space_of(domain), config.trial(domain, dict(point)), Point()
    for name, each in space.parameters().items():
        if name not in space.active(params):
            continue
        value = point.get(name, value_of(run, name))
        place = each.place(value)
        if place is None:
            raise ValueError(f"{name} is outside {each} ({shown(value)})")
        params[name] = place if isinstance(each, Choices) else value
    same = config.trial(domain, {**space.point(params), **_beside(point)})
    for name in point.keys() - params.keys() - {*BESIDE}:
        was, is_now = value_of(run, name), value_of(same, name)
        if not equal(was, is_now):
            raise ValueError(f"{name} is {shown(is_now)} in this space (was {shown(was)})")
    return params


def distributions_of(
    config: SweepConfig, domain: str, params: Point
) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each parameter of a point of the space.

    Raises:
        ValueError: a value is between the steps of its range.
    """
    drawn = FixedTrial(params)
    config.space_of(domain).suggest(drawn)
    for name, distribution in drawn.distributions.items():
        if not contains(distribution, params[name]):
            raise ValueError(f"{name} is between two steps ({shown(params[name])})")
    return drawn.distributions


def fitted(trial: FrozenTrial, config: SweepConfig, domain: str) -> FrozenTrial:
    """A copy of a trial for a study of the configured space.

    Raises:
        ValueError: the trial does not fit the space; says why.
    """
    found, point = copy(trial), point_of(trial)
    if FORK in trial.user_attrs:  # it is no point of any space
        return found
    if is_void(trial) and not is_queued(trial):
        raise ValueError("it was killed before it had a point")
    params = point_in(config, domain, point)
    distributions = distributions_of(config, domain, params)
    found.system_attrs = kept_attrs(trial)
    if is_queued(trial):
        found.system_attrs = queued_attrs(found, {**params, **_beside(point)})
    found.user_attrs = {n: value for n, value in trial.user_attrs.items() if n != EARLIER}
    if trial.state is TrialState.WAITING:
        return found
    beside = _beside(point)
    found.params = {**params, **beside}
    found.distributions = {**distributions, **{name: BESIDE[name] for name in beside}}
    is_over = trial.state.is_finished() and INTERRUPTED not in trial.user_attrs
    if "outcome" in trial.user_attrs and is_over and not beside:
        _judge(found, config, domain)
    return found


def _judge(trial: FrozenTrial, config: SweepConfig, domain: str) -> None:
    """Give an ended trial the state, values and constraints of its outcome in this search."""
    ended: dict[str, Any] = trial.user_attrs["outcome"]
    trial.state, trial.values = optuna_state(ended), None
    if INCOMPLETE in trial.user_attrs and ended["state"] == "finished" and SCORES not in ended:
        trial.state, trial.datetime_complete = TrialState.RUNNING, None
    if trial.state is not TrialState.COMPLETE:
        return
    folder = str(paths_for(config).trial(domain, trial.user_attrs.get(KEY, "")))
    values = judged(ended, config.objectives(), config.search.constraints, folder)
    if values is None:
        raise ValueError("an objective or a constraint was not measured")
    trial.values = values[0]
    for name, amount in values[1].items():
        trial.set_constraint(name, amount)


def _left(trial: FrozenTrial) -> FrozenTrial:
    """A copy of a trial outside the space: a record that no sampler reads."""
    found, now = copy(trial), datetime.now()
    found.state, found.values = TrialState.FAIL, None
    found.params, found.distributions = {}, {}
    found.datetime_start = trial.datetime_start or now
    found.datetime_complete = trial.datetime_complete or now
    found.user_attrs = {**trial.user_attrs, EARLIER: point_of(trial)}
    if trial.state is TrialState.WAITING:  # forget it: the attempt before it is the last one
        found.user_attrs = {INTERRUPTED: True}
    found.system_attrs = kept_attrs(trial)
    return found


def _beside(point: Mapping[str, Any]) -> Point:
    return {name: point[name] for name in BESIDE if name in point}
