"""Trials that another study of the same paper has trained: taken over, not trained again."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeps.config.study_config import KINDS
from sweeps.config.study_identity import trial_key
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.execution.trial_jobs import TrialJobs
from sweeps.report.trial_row import TrialRow
from sweeps.search.attempt_records import KEY, NUMBER, identity, next_number, point_of
from sweeps.search.design import DERIVED, Design, DesignPoint
from sweeps.search.trial_records import Records
from sweeps.storage.atomic_io import linked_copy
from sweeps.storage.trial_files import EVENTS_FILE, MODEL, RESULT_FILE

TAKEN_FROM = "taken_from"
"""Of a trial that another study trained: its folder there."""


@final
@dataclass(frozen=True)
class Trained:
    """A trial that another study has finished."""

    trial: FrozenTrial
    row: TrialRow
    folder: Path


def sibling(config: SweepConfig, kind: str) -> SweepConfig | None:
    """Another study of the same `paper`; None if that has not started."""
    ending = f"-{config.study.kind}"
    if not config.name.endswith(ending):
        return None
    name = f"{config.name.removesuffix(ending)}-{kind}"
    found = config.model_copy(update={"name": name})
    return found if paths_for(found).created_marker().exists() else None


def trained_elsewhere(config: SweepConfig, domain: str) -> dict[str, Trained]:
    """The finished trials of the paper's other studies, by the digest of their run.

    Empty for an object store, where their files are not at hand.
    """
    found: dict[str, Trained] = {}
    others = (sibling(config, kind) for kind in KINDS if kind != config.study.kind)
    for other in others if paths_for(config).address is None else ():
        if other is None:
            continue
        records = Records(other)
        rows = {row.key: row for row in records.rows(domain) if row.state == "finished"}
        for trial in records.trials(domain):
            key = trial.user_attrs.get(KEY)
            if trial.state == TrialState.COMPLETE and key in rows:
                folder = records.place.trial(domain, key)
                found.setdefault(_run_of(key), Trained(trial, rows[key], folder))
    return found


def _run_of(key: str) -> str:
    return key.partition("-")[2]


def take_over(
    config: SweepConfig,
    domain: str,
    study: optuna.Study,
    design: Design,
    points: Iterable[DesignPoint],
    elsewhere: Mapping[str, Trained],
) -> list[str]:
    """Record those of ``points`` that were trained elsewhere as finished; returns their keys.

    A trial whose weights are needed is taken over only with them.
    """
    jobs, taken = TrialJobs(config, domain, study), list[str]()
    known = {identity(point_of(trial)) for trial in study.get_trials(deepcopy=False)}
    for point in points if elsewhere else ():
        if point.method in DERIVED or identity(point.params()) in known:
            continue
        run = config.trial(domain, point.params())
        source = elsewhere.get(_run_of(trial_key(0, run, config.resources.workers)))
        if source is None:
            continue
        keeps = design.keeps_model(replace(source.row, stage=point.stage))
        if keeps and not (source.folder / MODEL).is_dir():
            continue
        job = jobs.trial(next_number(study), point.params())
        _copy(source.folder, Path(job.folder), with_model=keeps)
        outcome = {**source.trial.user_attrs["outcome"], "seconds": 0.0}
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=source.trial.value,
                params={**source.trial.params, "stage": point.stage},
                distributions=source.trial.distributions,
                intermediate_values=source.trial.intermediate_values,
                user_attrs={
                    NUMBER: job.number,
                    KEY: job.key,
                    "method": job.method,
                    "outcome": outcome,
                    TAKEN_FROM: str(source.folder),
                },
            )
        )
        taken.append(job.key)
    return taken


def _copy(source: Path, target: Path, *, with_model: bool) -> None:
    for name in (EVENTS_FILE, RESULT_FILE):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if with_model:
        linked_copy(source / MODEL, target / MODEL)
