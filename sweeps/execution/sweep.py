"""Build, run and continue the studies of a sweep: one Optuna study per domain, run by Ray Tune.

The Optuna storage is the source of truth: running the same configuration again continues it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

import optuna

from sweeps.config.budget import StopCondition, UsageFile, UsageTracker
from sweeps.config.failure_kinds import chain, kind_of
from sweeps.config.load import save_config
from sweeps.config.search_config import DIRECTIONS
from sweeps.config.study_identity import DEFINITION, preregister
from sweeps.config.sweep_config import SweepConfig, paths_for, resolve_paths, share_generated_files
from sweeps.execution import preflight
from sweeps.execution.disk_need import check_disk
from sweeps.execution.driver_log import driver_log
from sweeps.execution.hooked_display import calling_hooks
from sweeps.execution.progress import Display, LineDisplay
from sweeps.execution.remote_job import Stored
from sweeps.execution.worker_session import worker_session
from sweeps.finetune.model_facts import warn_of_rounding
from sweeps.search.attempt_records import mark_interrupted
from sweeps.search.changed_space import (
    carry_over,
    make_newest,
    next_version,
    recorded_study,
    space_changes,
)
from sweeps.search.fixed_designs import build_design
from sweeps.search.optuna_compat import name_objectives
from sweeps.search.optuna_storage import InterruptSafeStorage, open_storage
from sweeps.search.samplers import DistinctSampler
from sweeps.search.trial_counts import first_trials
from sweeps.storage import remote_sync
from sweeps.storage.address import folder_of, is_relative
from sweeps.storage.atomic_io import atomic_write
from sweeps.storage.errors import UserError
from sweeps.storage.run_lock import Driver
from sweeps.tracking.mlflow_store import tracking_uri
from sweeps.tracking.tracker import Tracker

if TYPE_CHECKING:
    from sweeps.execution.domain_result import DomainResult
    from sweeps.execution.study_session import DomainSession
    from sweeps.execution.worker_groups import WorkerGroups

__all__ = ["StudyResult", "paths_for", "run", "validate"]


@final
@dataclass(frozen=True)
class StudyResult:
    """The result of a sweep."""

    domains: dict[str, DomainResult]
    """The result of each domain."""
    stopped: str = ""
    """How the budget ended the sweep, as a sentence; else empty."""

    def unreached(self) -> tuple[str, ...]:
        """The domains without a finished trial."""
        return tuple(name for name, result in self.domains.items() if not result.is_reached())


def open_study(
    config: SweepConfig,
    domain: str,
    storage: InterruptSafeStorage | None = None,
    *,
    adopt: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> optuna.Study:
    """The domain's Optuna study, created if it does not exist; a new version if the space changed.

    ``storage``: the sweep's, if it is open. ``adopt``: accept a study whose definition differs;
    record the new one. ``say``: told which trials a changed space takes over.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    place = paths_for(config)
    place.folder.mkdir(parents=True, exist_ok=True)
    name, storage = f"{config.name}/{domain}", storage or open_storage(place)
    directions = [DIRECTIONS[each] for each in config.objectives()]
    first = optuna.create_study(
        study_name=name, storage=storage, directions=directions, load_if_exists=True
    )
    study = recorded_study(storage, name) or first
    preflight.check_own_study(study, config)
    preflight.check_same_study(study, config, domain, adopt=adopt)
    if place.database is not None:
        atomic_write(place.created_marker(), place.database)
    is_new = DEFINITION not in study.user_attrs
    if space_changes(study, config, domain):
        mark_interrupted(study)
        before, study = study, next_version(first, study, storage)
        say(f"{domain}: {carry_over(before, study, config, domain)}")
    preflight.define(study, config, domain)
    name_objectives(study, config.objectives())
    make_newest(first, study)
    study.pruner = optuna.pruners.NopPruner()
    if config.study.kind == "search":
        study.sampler = DistinctSampler(study, config.space_of(domain), config.search, config.seed)
    if is_new:
        preregister(study, config, domain)
    return study


def run(
    config: SweepConfig,
    display: Display | None = None,
    tracker: Tracker | None = None,
    *,
    adopt: bool = False,
) -> StudyResult:
    """Run or continue every study of a sweep, and write its reports.

    Finished trials are not run again; interrupted ones resume from their last checkpoint.

    Args:
        config: from `load_config`.
        display: what shows progress; None: lines on standard output.
        tracker: what receives the events of trials; None: MLflow, see `tracking.uri`.
        adopt: continue studies whose definition differs; the old one stays on record.

    Raises:
        UserError: the input is wrong and nothing was started, or trials failed for a reason that
            would fail every other trial.
        KeyboardInterrupt: stopped by the user; another `run` continues.
    """
    display = display or LineDisplay()
    share_generated_files(config)
    relative, config = is_relative(config.storage), resolve_paths(config)
    tracker = tracker or build_tracker(config)
    place = paths_for(config)
    remote_sync.refresh(place)
    check(config, tracker, adopt=adopt)
    # Acquire the run lock before starting anything.
    with (
        remote_sync.acquire_run(place, display.say) as driver,
        driver_log(place.driver_log(), config.name),
        calling_hooks(config, display) as shown,
    ):
        save_config(config)  # `status` and `stop` read the folder, also while Ray starts
        shown.phase("starting Ray")
        with worker_session(config.resources, place.folder, Stored.of(config), relative) as groups:
            if not place.created_marker().exists():  # a new sweep certainly has trials to run
                shown.phase("starting workers")
                groups.start(first_trials(config))
            result = run_studies(config, shown, tracker, groups, driver, adopt=adopt)
            shown.stopped = result.stopped
            shown.phase("stopping workers")
            return result


def run_studies(
    config: SweepConfig,
    display: Display,
    tracker: Tracker,
    groups: WorkerGroups,
    driver: Driver,
    *,
    adopt: bool = False,
    ledger: UsageTracker | None = None,
) -> StudyResult:
    """Run every domain's study in existing worker groups; paths are resolved.

    ``adopt``: as in ``run``. ``ledger``: the usage tracker of a budget shared with other sweeps.
    """
    warn_of_rounding(config.model)
    place = paths_for(config)
    with remote_sync.database_kept(place, driver, display.say):
        storage = open_storage(place)  # one: a server that is away is waited for once
        studies = {
            one: open_study(config, one, storage, adopt=adopt, say=display.say)
            for one in config.domains
        }
        from sweeps.execution.study_session import DomainSession  # imports Ray Tune

        save_config(config)
        ledger = ledger or build_usage_tracker(config)
        stop_condition = StopCondition(ledger, config.failures.most_failed_share)
        sessions = [
            DomainSession(config, one, study, tracker.sibling(), display, groups, stop_condition)
            for one, study in studies.items()
        ]
        return _run_sessions(config, sessions, ledger)


def _run_sessions(
    config: SweepConfig, sessions: list[DomainSession], ledger: UsageTracker
) -> StudyResult:
    from sweeps.execution.study_session import run_together

    together = config.resources.domains == "side_by_side"
    results: dict[str, DomainResult] = {}
    for some in [sessions] if together else [[one] for one in sessions]:
        try:
            results |= run_together(some)
        except Exception as error:
            for said in chain(error):  # Tune wraps exceptions raised by its callbacks
                if isinstance(said, UserError):
                    raise said from None
            if kind_of(error) != "disk":
                raise
            names = ", ".join(one.domain for one in some)
            raise UserError(
                f"{names}: the disk with {paths_for(config).folder} is full (No space left on "
                "device). Free some space and run the same command to continue"
            ) from error
        finally:
            ledger.sync()
    return StudyResult(results, next((one.stopped for one in results.values() if one.stopped), ""))


def build_usage_tracker(
    config: SweepConfig, beside: Iterable[Path] = (), began: float | None = None
) -> UsageTracker:
    """The usage tracker of a sweep's budget. ``beside``: the folders of sweeps that share it;
    ``began``: the start of wall time, by default now."""
    gpus = config.resources.workers * config.resources.gpus_per_worker
    usage = UsageFile(paths_for(config).folder, beside)
    return UsageTracker(config.budget, gpus, usage.before, usage.record, began=began)


def validate(config: SweepConfig) -> None:
    """Run all checks that ``run`` makes before it starts, and start nothing.

    Raises:
        UserError: as in ``run``.
    """
    config = resolve_paths(config)
    check(config, build_tracker(config))


def check(config: SweepConfig, tracker: Tracker, *, adopt: bool = False) -> None:
    """Check the user's input before a study starts.

    ``adopt``: accept a recorded study whose definition differs, if its trials can be mixed.
    The lower layers report wrong input as a ValueError, which becomes a UserError here. A later
    ValueError is a bug and keeps its traceback.

    Raises:
        UserError: the input is wrong; nothing was started.
    """
    try:
        for domain in config.domains:
            build_design(config, domain)
        preflight.check_inputs(config)
        with preflight.writable(paths_for(config).folder):
            remote_sync.check_storage(paths_for(config))
            check_disk(config)
            tracker.check()
            preflight.check_recorded(paths_for(config), config, adopt=adopt)
    except ValueError as error:
        raise UserError(str(error)) from error


def build_tracker(config: SweepConfig) -> Tracker:
    """The MLflow tracker of a sweep."""
    from sweeps.tracking.mlflow_tracker import MlflowTracker

    return MlflowTracker(tracking_uri(config.tracking.uri, str(folder_of(config.storage))))
