"""What a domain's score is called: light, for commands that only look.

A study's Optuna records as the rows of its report.

A sweep's records as anybody may read them, from any terminal, while it runs or long after.
"""

from __future__ import annotations

from typing import Any, final

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeps.config.load import is_paper, study_paths
from sweeps.config.old_records import check_schema
from sweeps.config.study_identity import DEFINITION
from sweeps.config.sweep_config import SweepConfig, paths_for, resolve_paths
from sweeps.report.trial_row import ScoreLabel, TrialRow, best_first
from sweeps.search.attempts import INTERRUPTED, REACHED, retried
from sweeps.search.optuna_storage import open_storage
from sweeps.storage.errors import UserError
from sweeps.storage.remote_sync import refresh
from sweeps.storage.run_lock import living_drivers


def label_of(config: SweepConfig, domain: str) -> ScoreLabel:
    """What a domain's score is called and how it is shown."""
    return ScoreLabel.of([(b.name, b.metric) for b in config.domains[domain].benchmarks])


_STATES = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "pending",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped_early",
    TrialState.FAIL: "failed",
}


def trial_rows(study: optuna.Study, seed: int) -> tuple[TrialRow, ...]:
    """One row per started trial, by number, without interrupted tries that were queued again."""
    superseded = retried(study)
    rows = [
        _row(trial, seed)
        for trial in study.get_trials(deepcopy=False)
        if "key" in trial.user_attrs and trial.number not in superseded
    ]
    return tuple(sorted(rows, key=lambda row: row.number))


def own_rows(rows: tuple[TrialRow, ...]) -> tuple[TrialRow, ...]:
    """What a study chooses among: a search's own trials, not the replicates of its best. Every
    trial of a fixed design has a stage, and all of them are its own."""
    return tuple(row for row in rows if not row.stage) or rows


def best_row(rows: tuple[TrialRow, ...]) -> TrialRow | None:
    """The finished trial with the highest validation score; the earlier one of two equals."""
    return next(iter(best_rows(rows, 1)), None)


def ranked(rows: tuple[TrialRow, ...]) -> list[TrialRow]:
    """The best validation score first of those that ran to their end; then of the others, whose
    scores are of earlier steps; those without one last."""
    whole = best_first(rows)
    others = [row for row in rows if row not in whole]
    return [*whole, *sorted(others, key=lambda row: (row.score is None, -(row.score or 0.0)))]


def best_rows(rows: tuple[TrialRow, ...], count: int) -> tuple[TrialRow, ...]:
    """The ``count`` best finished trials, as `best_row` orders them."""
    return tuple(best_first(own_rows(rows))[:count])


def best_sft_row(rows: tuple[TrialRow, ...]) -> TrialRow | None:
    """The best finished trial without masking: the control."""
    return best_row(tuple(row for row in rows if row.is_sft()))


def _state(trial: FrozenTrial) -> str:
    if INTERRUPTED in trial.user_attrs:
        return "interrupted"
    said = trial.user_attrs.get("outcome", {}).get("state")  # for Optuna, to diverge is not FAIL
    return said if said and trial.state.is_finished() else _STATES[trial.state]


def _row(trial: FrozenTrial, seed: int) -> TrialRow:
    attrs: dict[str, Any] = trial.user_attrs
    # Without an outcome it runs, or was interrupted: what counts is its last check.
    outcome: dict[str, Any] = attrs.get("outcome", attrs.get(REACHED, {}))
    return TrialRow(
        number=attrs["number"],
        key=attrs["key"],
        state=_state(trial),
        mask_ratio=round(trial.params.get("mask_ratio", 0.0), 10),
        accumulation_interval=int(trial.params["accumulation_interval"]),
        learning_rate=trial.params["learning_rate"],
        seed=int(trial.params.get("seed", seed)),
        score=outcome.get("score"),
        step=int(outcome.get("step", 0)),
        steps=int(outcome.get("steps", 0)),
        seconds=float(outcome.get("seconds", 0.0)),
        metrics=outcome.get("metrics", {}),
        method=attrs.get("method", trial.params.get("method", "gmt")),
        stage=trial.params.get("stage", ""),
        train_fraction=trial.params.get("train_fraction", 1.0),
    )


@final
class Records:
    """Opens a sweep's storage and changes nothing in it.

    Raises:
        UserError: nothing of this sweep is there.
    """

    def __init__(self, config: SweepConfig) -> None:
        self.config = resolve_paths(config)
        self.place = paths_for(self.config)
        refresh(self.place)
        if not self.place.created_marker().is_file():
            raise UserError(_missing(self.config))
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._open()

    def _open(self) -> None:
        self._file = self.place.created_marker().stat().st_ino
        self._storage = open_storage(self.place)
        self._studies: dict[str, optuna.Study] = {}

    def look_again(self) -> None:
        """Fetch what is new, where the storage is an object store."""
        refresh(self.place)

    def study(self, domain: str) -> optuna.Study | None:
        """The domain's study; None before it has begun."""
        if self.place.created_marker().stat().st_ino != self._file:
            self._storage.engine.dispose()  # of a cluster's sweep, copies follow one another here
            self._open()
        name = f"{self.config.name}/{domain}"
        if domain not in self._studies and name in optuna.get_all_study_names(self._storage):
            study = optuna.load_study(study_name=name, storage=self._storage)
            check_schema(study.user_attrs.get(DEFINITION, {}), self.place.folder)
            self._studies[domain] = study
        return self._studies.get(domain)

    def begun(self) -> dict[str, tuple[TrialRow, ...]]:
        """The trials of every domain whose study has begun."""
        return {name: self.rows(name) for name in self.config.domains if self.study(name)}

    def trials(self, domain: str) -> list[optuna.trial.FrozenTrial]:
        """The domain's trials as Optuna has them, every try of each."""
        study = self.study(domain)
        return [] if study is None else study.get_trials(deepcopy=False)

    def rows(self, domain: str) -> tuple[TrialRow, ...]:
        """The domain's trials, as `trial_rows` gives them."""
        study = self.study(domain)
        return () if study is None else trial_rows(study, self.config.seed)


def _missing(config: SweepConfig) -> str:
    if is_paper(config):
        first = study_paths(config, config.study.paper[0]).folder
        return f"{config.name} is a paper: give one of its studies, as {first}"
    if drivers := living_drivers(paths_for(config).folder):
        return (
            f"{config.name} is being started, by {drivers[0]}: nothing is on record yet, ask "
            "again in some seconds"
        )
    return (
        f"no sweep named '{config.name}' in {config.storage}: run it first, or give its storage, "
        "as storage=runs"
    )


def recorded_rows(config: SweepConfig) -> dict[str, tuple[TrialRow, ...]]:
    """The trials on record by domain: none of a sweep that was never run."""
    refresh(paths_for(config))
    if not paths_for(config).created_marker().is_file():
        return dict.fromkeys(config.domains, ())
    records = Records(config)
    return {name: records.rows(name) for name in config.domains}
