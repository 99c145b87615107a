"""Build, run and continue the studies of a sweep: one Optuna study per domain, run by Ray Tune.

The Optuna storage is the truth: running the same configuration again continues where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final
from urllib.parse import urlsplit

import optuna

from sweeps import database, preflight
from sweeps.budget import Ledger, trial_hours
from sweeps.config import SweepConfig, resolve_paths
from sweeps.designs.build import build_design
from sweeps.disk_need import check_disk
from sweeps.drivers import Driver, driving
from sweeps.errors import UserError
from sweeps.failures import kind_of
from sweeps.final_scores import TestScores
from sweeps.halt import Halt
from sweeps.hooked_display import calling_hooks
from sweeps.identity import study_definition
from sweeps.load import save_config
from sweeps.mlflow_store import public_address
from sweeps.place import place_of
from sweeps.progress import Display, LineDisplay
from sweeps.report.data import TrialRow
from sweeps.report.write import ReportPaths
from sweeps.reporting import declare, write_study_report
from sweeps.rows import trial_rows
from sweeps.search_config import DIRECTIONS
from sweeps.session import DomainResult, DomainSession
from sweeps.tracking import Tracker
from sweeps.workers import worker_session

if TYPE_CHECKING:
    from sweeps.worker_group import WorkerGroups

__all__ = ["StudyResult", "leaderboard", "place_of", "report", "run", "validate"]


@final
@dataclass(frozen=True)
class StudyResult:
    """What a sweep came to, by domain."""

    domains: dict[str, DomainResult]


def tracking_uri(config: SweepConfig) -> str:
    """The MLflow address: the configured one, ``MLFLOW_TRACKING_URI`` (a cluster's nodes have it),
    or a sqlite file in the storage folder.

    Raises:
        UserError: it holds a password, which the records of a sweep would show to everybody.
    """
    storage = Path(config.storage).expanduser().resolve()
    given = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if given and urlsplit(given).password:
        raise UserError(
            f"tracking.uri {public_address(given)}: expected an address without a password; give "
            "it in the environment, as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    return given or f"sqlite:///{storage / 'mlflow.db'}"


def open_study(config: SweepConfig, domain: str) -> optuna.Study:
    """The domain's Optuna study, created with its starting points when it is new."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    place = place_of(config)
    place.folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=f"{config.name}/{domain}",
        storage=optuna.storages.RDBStorage(place.optuna_url()),
        directions=[DIRECTIONS[name] for name in config.objectives()],
        pruner=optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    preflight.check_same_study(study, config, domain)
    if preflight.DEFINITION not in study.user_attrs:
        study.set_user_attr(preflight.DEFINITION, study_definition(config, domain))
        declare(study, config, domain)
        if build_design(config, domain) is None:
            for point in config.search.start[: config.search.trials]:
                study.enqueue_trial(point.given())
    return study


def run(
    config: SweepConfig,
    display: Display | None = None,
    tracker: Tracker | None = None,
    *,
    join: bool = False,
    adopt: bool = False,
) -> StudyResult:
    """Run, or continue, every study of a sweep, and write its reports.

    ``join``: help a process that runs the same sweep already, instead of being refused.
    ``adopt``: go on with studies of another definition, which is then kept on record.

    Raises:
        UserError: something the user gave is wrong, and nothing was started; or trials failed for
            a reason that all others would share.
        KeyboardInterrupt: stopped by the user; trials are marked, running it again goes on.
    """
    config = resolve_paths(config)
    display = display or LineDisplay()
    tracker = tracker or build_tracker(config)
    check(config, tracker, adopt=adopt)
    place = place_of(config)
    # First the right to drive: one who is refused must not have started anything.
    with (
        driving(place.folder, join=join) as driver,
        calling_hooks(config, display) as shown,
        worker_session(config.resources, place.folder) as groups,
    ):
        return run_studies(config, shown, tracker, groups, driver)


def run_studies(
    config: SweepConfig,
    display: Display,
    tracker: Tracker,
    groups: WorkerGroups,
    driver: Driver,
) -> StudyResult:
    """Run every domain's study in groups that are there already; paths are resolved."""
    place = place_of(config)
    with database.kept(place.optuna_live(), place.optuna_copy()):
        return _run_domains(config, display, tracker, groups, driver)


def _run_domains(
    config: SweepConfig,
    display: Display,
    tracker: Tracker,
    groups: WorkerGroups,
    driver: Driver,
) -> StudyResult:
    studies = {domain: open_study(config, domain) for domain in config.domains}
    save_config(config)
    halt = Halt(_ledger(config, studies), config.failures.most_failed_share)
    results = {}
    for domain, study in studies.items():
        session = DomainSession(config, domain, study, tracker, display, groups, driver, halt)
        try:
            results[domain] = session.run()
        except Exception as error:
            if isinstance(error, UserError) or kind_of(error) != "disk":
                raise
            raise UserError(
                f"{domain}: the disk with {place_of(config).folder} is full (No space left on "
                "device). Free some space and run it again: it goes on from there"
            ) from error
    return StudyResult(results)


def _ledger(config: SweepConfig, studies: Mapping[str, optuna.Study]) -> Ledger:
    """The sweep's spending so far."""
    gpus = config.resources.workers * config.resources.gpus_per_worker
    hours = sum(trial_hours(trial_rows(study, config.seed)) for study in studies.values())
    return Ledger(config.budget, gpus, before=hours * gpus)


def validate(config: SweepConfig) -> None:
    """Check everything that ``run`` checks before it starts, and start nothing.

    Raises:
        UserError: as ``run``.
    """
    config = resolve_paths(config)
    check(config, build_tracker(config))


def check(config: SweepConfig, tracker: Tracker, *, adopt: bool = False) -> None:
    """All that can be known to be wrong before a study starts.

    ``adopt``: a recorded study of another definition takes this one.
    What the rooms below find wrong with a user's input, they say by a ValueError of some kind.
    Any other ValueError, later, is a fault of ours and keeps its traceback.

    Raises:
        UserError: what is wrong; nothing was started.
    """
    try:
        for domain in config.domains:
            build_design(config, domain)
        preflight.check_inputs(config)
        with preflight.writable(place_of(config).folder):
            check_disk(config)
            preflight.check_tracker(tracker)
            preflight.check_recorded(place_of(config).optuna_file(), config, adopt=adopt)
    except ValueError as error:
        raise UserError(str(error)) from error


def build_tracker(config: SweepConfig) -> Tracker:
    """The MLflow tracker of a sweep."""
    from sweeps.mlflow_tracker import MlflowTracker

    return MlflowTracker(tracking_uri(config))


def report(config: SweepConfig) -> dict[str, ReportPaths]:
    """Write the reports of finished or unfinished studies again, from the storage alone.

    Raises:
        UserError: nothing of this sweep is in the storage.
    """
    config = resolve_paths(config)
    place = place_of(config)
    return {
        domain: write_study_report(
            config, domain, open_study(config, domain), rows, TestScores.read(place.study(domain))
        )
        for domain, rows in recorded_rows(config).items()
    }


def leaderboard(config: SweepConfig) -> dict[str, list[TrialRow]]:
    """Each domain's trials, the best validation score first, those without one last."""
    return {
        domain: sorted(rows, key=lambda row: (row.score is None, -(row.score or 0.0)))
        for domain, rows in recorded_rows(config).items()
    }


def recorded_rows(config: SweepConfig) -> dict[str, tuple[TrialRow, ...]]:
    """Every domain's trials as the storage has them.

    Raises:
        UserError: nothing of this sweep is in the storage.
    """
    config = resolve_paths(config)
    if not place_of(config).optuna_file().exists():
        raise UserError(
            f"no sweep named '{config.name}' in {config.storage}: run it first, or give its "
            "storage, as storage=runs"
        )
    return {d: trial_rows(open_study(config, d), config.seed) for d in config.domains}
