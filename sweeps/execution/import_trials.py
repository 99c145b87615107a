"""Import the trials of another study, from which the sampler learns.

An imported trial has no model here. It is not selected, exported or compared, it counts neither as
a trial of the search nor toward its budget, and its point may be drawn again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeps.config.load import load_config, save_config
from sweeps.config.search_space import Point
from sweeps.config.study_identity import (
    DEFINITION,
    differences,
    split_definition,
    study_definition,
)
from sweeps.config.sweep_config import SweepConfig, paths_for, resolve_paths
from sweeps.execution import preflight
from sweeps.execution.sweep import open_study
from sweeps.finetune.hub import similar_path
from sweeps.finetune.run_identity import Tree
from sweeps.search.attempt_records import FORK, IMPORTED, KEY, NUMBER, latest_attempts, point_of
from sweeps.search.changed_space import distributions_of, fitted, point_in
from sweeps.search.optuna_storage import open_foreign, open_storage
from sweeps.search.trial_records import Records, label_of
from sweeps.storage import remote_sync
from sweeps.storage.address import OPTIONS, is_address
from sweeps.storage.errors import UserError, nearest
from sweeps.storage.lease import Say

_BEFORE = "imported before"


@final
@dataclass(frozen=True)
class Source:
    """Ended trials to import into a domain: `name` for reports, and each trial's number there with
    the trial as this search has it, or why it is skipped. `left_out`: parameters without a key."""

    name: str
    trials: tuple[tuple[int, FrozenTrial | str], ...]
    left_out: tuple[str, ...] = ()


def import_trials(config: SweepConfig, sources: Mapping[str, Source], say: Say) -> tuple[str, ...]:
    """Add the trials of each domain's source to its study, once, and say what was done.

    Returns the domains that have no trial of their source, neither from now nor from before.

    Raises:
        UserError: a process runs the sweep, or its recorded study differs.
    """
    config = resolve_paths(config)
    place = paths_for(config)
    remote_sync.refresh(place)
    preflight.check_recorded(place, config)
    with (
        remote_sync.acquire_run(place, say) as driver,
        remote_sync.database_kept(place, driver, say),
    ):
        save_config(config)
        storage, empty = open_storage(place), list[str]()
        for domain, source in sources.items():
            study = open_study(config, domain, storage, say=say)
            has_any, said = _add(study, source)
            say(f"{domain}: {said}")
            empty += [] if has_any else [domain]
    return tuple(empty)


def _add(study: optuna.Study, source: Source) -> tuple[bool, str]:
    """Add the trials; whether any is in the study now, and what was done."""
    known = [t.user_attrs.get(IMPORTED) for t in study.get_trials(deepcopy=False)]
    skipped, added = Counter[str](), 0
    for number, found in source.trials:
        mark = {"source": source.name, "number": number}
        if isinstance(found, str) or mark in known:
            skipped[found if isinstance(found, str) else _BEFORE] += 1
            continue
        found.user_attrs = {**found.user_attrs, IMPORTED: mark}
        study.add_trial(found)
        added += 1
    said = f"{added} of {len(source.trials)} trials of {source.name} imported"
    said += "".join(f"; {count} skipped: {why}" for why, count in skipped.items())
    left_out = ", ".join(source.left_out)
    said += f"; not in the space, ignored: {left_out}" if left_out else ""
    return added + skipped[_BEFORE] > 0, said


def from_sweep(config: SweepConfig, path: str, domains: Sequence[str]) -> dict[str, Source]:
    """The trials of another sweep, by those of ``domains`` that it has.

    Raises:
        UserError: the scores of the two mean different things; names each difference.
    """
    if not is_address(path) and not Path(path).exists():
        similar = similar_path(Path(path), lambda beside: True)
        raise UserError(
            f"{path}: no such file or folder; expected another sweep's folder, or the file or "
            f"address of an Optuna database{similar}"
        )
    config = resolve_paths(config)
    other, found = resolve_paths(load_config(path)), dict[str, Source]()
    if paths_for(other) == paths_for(config):
        raise UserError(f"{path}: this is the same sweep; expected another one")
    records = Records(other)
    for domain in domains:
        study = records.study(domain) if domain in records.config.domains else None
        if study is None:
            continue
        there = _scored_by(study.user_attrs[DEFINITION])
        if changed := differences(there, _scored_by(study_definition(config, domain))):
            raise UserError(
                f"{path}: its scores in domain '{domain}' mean something else, so no trial is "
                f"imported: {'; '.join(changed)}"
            )
        trials = tuple(
            (trial.user_attrs[NUMBER], _of_sweep(trial, config, domain))
            for trial in latest_attempts(study)
            if KEY in trial.user_attrs
        )
        found[domain] = Source(f"sweep {records.config.name}", trials)
    if not found:
        raise UserError(f"{path}: has no trials of domain {', '.join(domains)}")
    return found


def _scored_by(definition: Tree) -> Tree:
    """What decides a finished trial's score; early stopping does not."""
    score, _ = split_definition(definition)
    search = {"objectives": score.get("search", {}).get("objectives", ["score"])}
    return {**score, "search": search}


def _of_sweep(trial: FrozenTrial, config: SweepConfig, domain: str) -> FrozenTrial | str:
    ended = trial.user_attrs.get("outcome", {})
    if FORK in trial.user_attrs:
        return "a fork"
    if "stage" in point_of(trial):
        return "another seed of a point"
    try:
        found = fitted(trial, config, domain)
    except ValueError as error:
        return _kind_of(error)
    if ended.get("state") != "finished" or not found.state.is_finished():
        return "not finished"
    found.user_attrs = {"outcome": ended, "method": trial.user_attrs["method"]}
    return found


def from_optuna(
    config: SweepConfig, address: str, name: str | None, domain: str, keys: Mapping[str, str]
) -> Source:
    """The trials of a plain Optuna study. ``keys``: its parameters to keys of the space, for those
    that are named differently.

    Raises:
        UserError: the study, a parameter or a key does not exist, or its values are no scores of
            this search.
    """
    study = open_foreign(address, name)
    said = f"study {study.study_name}"
    if config.search.constraints or len(config.objectives()) > 1 or len(study.directions) > 1:
        raise UserError(f"{said}: expected the score as the only objective, and no constraints")
    sign = label_of(config, domain).sign
    wanted = StudyDirection.MAXIMIZE if sign > 0 else StudyDirection.MINIMIZE
    if study.direction is not wanted:
        raise UserError(
            f"{said}: its direction is {study.direction.name.lower()}, but that of domain "
            f"'{domain}' is {wanted.name.lower()}: expected a study of the same score"
        )
    trials, space = study.get_trials(), config.space_of(domain)
    given = [*space.parameters()]
    names = sorted({name for trial in trials for name in trial.params})
    for theirs, ours in keys.items():
        for word, known, what in ((theirs, names, said), (ours, given, "the space")):
            if word not in known:
                raise UserError(
                    f"--map {theirs}={ours}: {what} has no {word} ({nearest(word, known)})"
                )
    named = {keys.get(name, name) for name in names}
    searched = {key for key, p in space.parameters().items() if p.count() != 1}
    if missing := {key for key in searched - named if not space.condition(key)}:
        raise UserError(
            f"{said}: none of its trials has {', '.join(sorted(missing))}; expected "
            "--map NAME=KEY for a parameter with another name; there are: "
            f"{', '.join(names) or 'none'}"
        )
    left_out = tuple(name for name in names if keys.get(name, name) not in given)
    found = tuple(
        (trial.number, _of_optuna(trial, config, domain, keys, sign)) for trial in trials
    )
    return Source(said, found, left_out)


def _of_optuna(
    trial: FrozenTrial, config: SweepConfig, domain: str, keys: Mapping[str, str], sign: float
) -> FrozenTrial | str:
    if trial.state is not TrialState.COMPLETE:
        return "not complete"
    space = config.space_of(domain)
    fixed = {key: p.values()[0] for key, p in space.parameters().items() if p.count() == 1}
    named = {keys.get(name, name): value for name, value in trial.params.items()}
    point: Point = {**fixed, **{k: v for k, v in named.items() if k in space.parameters()}}
    if missing := [key for key in space.active(point) if key not in point]:
        return f"no {' and no '.join(missing)}"
    try:
        params = point_in(config, domain, point)
        distributions = distributions_of(config, domain, params)
    except ValueError as error:
        return _kind_of(error)
    score = sign * (trial.value or 0.0)
    ended: dict[str, Any] = {"state": "finished", "score": score, "metrics": {}}
    method = params.get("method", config.training.method)
    attrs = {"outcome": ended, "method": method}
    return create_trial(value=score, params=params, distributions=distributions, user_attrs=attrs)


def _kind_of(error: ValueError) -> str:
    """Why a point is outside the space, without its value."""
    return re.sub(r" \(.*\)$", "", " ".join(str(error).split()))


def is_database(source: str) -> bool:
    """Whether a source is the address or the file of a database, and not a sweep."""
    file = Path(source)
    if "://" in source:
        return source.partition("://")[0] not in OPTIONS
    if not file.is_file():
        return False
    with file.open("rb") as beginning:
        return beginning.read(6) == b"SQLite"
