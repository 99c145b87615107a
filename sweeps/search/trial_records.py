"""Read a sweep's records: its trials as rows, ranked, and the label of each domain's score.

Reading is safe from any process, while the sweep runs or after it, and loads no heavy library.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, final

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeps.config.load import is_paper, study_paths
from sweeps.config.old_records import check_schema
from sweeps.config.study_identity import DEFINITION
from sweeps.config.sweep_config import SweepConfig, paths_for, resolve_paths
from sweeps.report.trial_row import EARLIER_SPACE, ScoreLabel, TrialRow, best_first
from sweeps.search.attempt_records import (
    EARLIER,
    IMPORTED,
    INTERRUPTED,
    KEY,
    NUMBER,
    REACHED,
    REQUEST,
    Lineage,
    latest_attempts,
    recorded_params,
)
from sweeps.search.changed_space import preview, recorded_study
from sweeps.search.optuna_storage import open_storage
from sweeps.storage.command_line import command_line
from sweeps.storage.errors import UserError
from sweeps.storage.remote_sync import living_driver, refresh
from sweeps.storage.run_lock import StartingError


def label_of(config: SweepConfig, domain: str) -> ScoreLabel:
    """The name of a domain's score and how it is shown."""
    return ScoreLabel.of([(b.name, b.metric) for b in config.domains[domain].benchmarks])


_STATES = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "pending",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped_early",
    TrialState.FAIL: "failed",
}


def trial_rows(study: optuna.Study, seed: int) -> tuple[TrialRow, ...]:
    """One row per started trial, by number; without attempts that a later one continues."""
    rows = [
        _row(trial, seed)
        for trial in latest_attempts(study)
        if trial.user_attrs.keys() & {KEY, IMPORTED}
    ]
    return tuple(sorted(rows, key=lambda row: row.number))


def own_rows(rows: tuple[TrialRow, ...]) -> tuple[TrialRow, ...]:
    """The trials a study selects from: a search's own trials, without those of other seeds, forks,
    and those outside its space or of another study.

    Every trial of a fixed design has a stage, so all of its trials are returned.
    """
    here = tuple(row for row in rows if not row.origin)
    return tuple(row for row in here if not row.stage) or here


def best_row(rows: tuple[TrialRow, ...]) -> TrialRow | None:
    """The finished trial with the highest validation score; the earlier one in a tie."""
    return next(iter(best_rows(rows, 1)), None)


def ranked(rows: tuple[TrialRow, ...]) -> list[TrialRow]:
    """The finished trials that the study selects from, by validation score; then all others, of
    which those without a score come last."""
    whole = best_first(own_rows(rows))
    others = [row for row in rows if row not in whole]
    return [*whole, *sorted(others, key=lambda row: (row.score is None, -(row.score or 0.0)))]


def best_rows(rows: tuple[TrialRow, ...], count: int) -> tuple[TrialRow, ...]:
    """The ``count`` best finished trials, in the order of `best_row`."""
    return tuple(best_first(own_rows(rows))[:count])


def best_sft_row(rows: tuple[TrialRow, ...]) -> TrialRow | None:
    """The best finished trial without masking, which is the control, even if it violates
    constraints: it keeps the whole gradient."""
    return best_row(tuple(replace(row, violated=()) for row in rows if row.is_sft()))


_COLUMNS = {field.name for field in fields(TrialRow)}
"""The parameters with a field of their own."""


def _state(trial: FrozenTrial) -> str:
    if INTERRUPTED in trial.user_attrs:
        return "interrupted"
    said = trial.user_attrs.get("outcome", {}).get(
        "state"
    )  # a diverged trial is not FAIL in Optuna
    return said if said and trial.state.is_finished() else _STATES[trial.state]


def _row(trial: FrozenTrial, seed: int) -> TrialRow:
    attrs: dict[str, Any] = trial.user_attrs
    params, lineage = recorded_params(trial), Lineage.of(trial)
    imported = attrs.get(IMPORTED, {})
    # A trial without an outcome runs or was interrupted: use its last check.
    outcome: dict[str, Any] = attrs.get("outcome", attrs.get(REACHED, {}))
    return TrialRow(
        number=imported.get("number", attrs.get(NUMBER)),
        key=attrs.get(KEY, ""),
        state=_state(trial),
        mask_ratio=round(params.get("mask_ratio", 0.0), 10),
        accumulation_interval=int(params["accumulation_interval"]),
        learning_rate=params["learning_rate"],
        seed=int(params.get("seed", seed)),
        score=outcome.get("score"),
        step=int(outcome.get("step", 0)),
        steps=int(outcome.get("steps", 0)),
        seconds=float(outcome.get("seconds", 0.0)),
        metrics=outcome.get("metrics", {}),
        method=attrs.get("method", params.get("method", "gmt")),
        stage=params.get("stage", ""),
        train_fraction=params.get("train_fraction", 1.0),
        others={name: value for name, value in params.items() if name not in _COLUMNS},
        violated=tuple(name for name, excess in trial.constraints.items() if excess > 0),
        scores=tuple(outcome.get("scores", ())),
        origin=imported.get("source", EARLIER_SPACE if EARLIER in attrs else ""),
        queued=REQUEST in attrs and lineage is None,
        parent=lineage and lineage.trial,
        parent_step=lineage.step if lineage else 0,
    )


@final
class NothingRecordedError(UserError):
    """The sweep in this folder was stopped before its first trial."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder.name} was stopped before its first trial: nothing is on record yet; to run "
            f"it: {command_line('resume', folder)}"
        )
        self.folder = folder


@final
class Records:
    """Read-only access to a sweep's storage.

    Raises:
        StartingError: the sweep is starting.
        NothingRecordedError: it was stopped before its first trial.
        UserError: the storage does not hold this sweep.
    """

    def __init__(self, config: SweepConfig) -> None:
        self.config = resolve_paths(config)
        self.place = paths_for(self.config)
        refresh(self.place)
        if not self.place.created_marker().is_file():
            raise _missing(self.config)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._open()

    def _open(self) -> None:
        self._file = self.place.created_marker().stat().st_ino
        self._storage = open_storage(self.place)

    def look_again(self) -> None:
        """Download new records if the storage is an object store."""
        refresh(self.place)

    def study(self, domain: str) -> optuna.Study | None:
        """The domain's study; None if it has not started."""
        if self.place.created_marker().stat().st_ino != self._file:
            self._storage.engine.dispose()  # a cluster's driver replaces this copy of the database
            self._open()
        study = recorded_study(self._storage, f"{self.config.name}/{domain}")
        if study is not None:
            check_schema(study.user_attrs.get(DEFINITION, {}), self.place.folder)
        return study

    def begun(self) -> dict[str, tuple[TrialRow, ...]]:
        """The trials of every domain whose study has started."""
        return {name: self.rows(name) for name in self.config.domains if self.study(name)}

    def trials(self, domain: str) -> list[optuna.trial.FrozenTrial]:
        """The domain's Optuna trials, including every attempt."""
        study = self.study(domain)
        return [] if study is None else study.get_trials(deepcopy=False)

    def rows(self, domain: str) -> tuple[TrialRow, ...]:
        """The domain's trials as rows (see `trial_rows`)."""
        study = self.study(domain)
        return () if study is None else trial_rows(study, self.config.seed)


def _missing(config: SweepConfig) -> UserError:
    folder = paths_for(config).folder
    if is_paper(config):
        first = study_paths(config, config.study.paper[0]).folder
        return UserError(f"{config.name} is a paper: give one of its studies, such as {first}")
    if driver := living_driver(paths_for(config)):
        return StartingError(folder, driver)
    if paths_for(config).config_file().is_file():
        return NothingRecordedError(folder)
    return UserError(
        f"no sweep named '{config.name}' in {config.storage}: run it first, or give its storage, "
        "for example storage=runs"
    )


def recorded_rows(config: SweepConfig) -> dict[str, tuple[TrialRow, ...]]:
    """The recorded trials by domain, as the configured space has them; empty for a sweep that was
    never run."""
    return {name: rows for name, (rows, _) in space_previews(config).items()}


def space_previews(config: SweepConfig) -> dict[str, tuple[tuple[TrialRow, ...], str]]:
    """`recorded_rows`, each with what a changed space makes of them; empty if it is the same."""
    refresh(paths_for(config))
    found: dict[str, tuple[tuple[TrialRow, ...], str]] = dict.fromkeys(config.domains, ((), ""))
    if not paths_for(config).created_marker().is_file():
        return found
    records = Records(config)
    for name in config.domains:
        if (study := records.study(name)) is not None:
            study, said = preview(study, config, name)
            found[name] = trial_rows(study, config.seed), said
    return found
