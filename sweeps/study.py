"""Build, run and continue the studies of a sweep: one Optuna study per domain, run by Ray Tune.

The Optuna storage is the truth: running the same configuration again continues where it stopped.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import final

import optuna
import yaml

from sweeps import preflight
from sweeps.cluster import ray_session
from sweeps.config import SweepConfig, resolve_paths
from sweeps.errors import UserError
from sweeps.final_scores import TestScores, score_on_test
from sweeps.identity import git_commit, study_definition, trial_key
from sweeps.progress import Display, LineDisplay, Tally
from sweeps.pump import SENT_FILE, TrackerPump
from sweeps.report.data import StudyData, TrialRow
from sweeps.report.write import ReportPaths, write_report
from sweeps.rows import best_row, best_sft_row, trial_rows
from sweeps.search import (
    StudySearch,
    Suggestion,
    build_sampler,
    finished_trials,
    mark_interrupted,
    queue_interrupted,
)
from sweeps.space import Point
from sweeps.tracking import StudyInfo, Tracker


@final
@dataclass(frozen=True)
class DomainResult:
    """One domain's study: its trials, the best on validation items, and its report.

    ``links``: (label, text) pairs that say where the tracker shows it.
    """

    domain: str
    rows: tuple[TrialRow, ...]
    best: TrialRow | None
    test_scores: TestScores
    report: ReportPaths
    links: tuple[tuple[str, str], ...]


@final
@dataclass(frozen=True)
class StudyResult:
    """What a sweep came to, by domain."""

    domains: dict[str, DomainResult]


@final
@dataclass(frozen=True)
class StudyPlace:
    """Where the studies of one sweep lie: everything below ``storage/name``."""

    folder: Path

    def optuna_url(self) -> str:
        """The storage that holds every study of the sweep."""
        return f"sqlite:///{self.optuna_file()}"

    def optuna_file(self) -> Path:
        """The file of ``optuna_url``; absent before the first study."""
        return self.folder / "optuna.db"

    def study(self, domain: str) -> Path:
        """The folder of one domain's study: its trials, test scores and report."""
        return self.folder / domain

    def trial(self, domain: str, key: str) -> Path:
        """The folder of one trial."""
        return self.study(domain) / "trials" / key


def place_of(config: SweepConfig) -> StudyPlace:
    """The folder that a sweep's name stands for in its storage."""
    return StudyPlace(Path(config.storage).expanduser().resolve() / config.name)


def tracking_uri(config: SweepConfig) -> str:
    """The MLflow address: the configured one, or a sqlite file in the storage folder."""
    storage = Path(config.storage).expanduser().resolve()
    return config.tracking.uri or f"sqlite:///{storage / 'mlflow.db'}"


def open_study(config: SweepConfig, domain: str) -> optuna.Study:
    """The domain's Optuna study, created with its starting points when it is new."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    place = place_of(config)
    place.folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=f"{config.name}/{domain}",
        storage=optuna.storages.RDBStorage(place.optuna_url()),
        direction="maximize",
        load_if_exists=True,
    )
    preflight.check_same_study(study, config, domain)
    if preflight.DEFINITION not in study.user_attrs:
        study.set_user_attr(preflight.DEFINITION, study_definition(config, domain))
        for point in config.search.start[: config.search.trials]:
            study.enqueue_trial(point.given())
    return study


def run(
    config: SweepConfig, display: Display | None = None, tracker: Tracker | None = None
) -> StudyResult:
    """Run, or continue, every study of a sweep, and write its reports.

    Raises:
        ValueError: something the user gave is wrong; nothing was started.
        KeyboardInterrupt: stopped by the user; trials are marked, running it again goes on.
    """
    config = resolve_paths(config)
    display = display or LineDisplay()
    tracker = tracker or build_tracker(config)
    _check(config, tracker)
    studies = {domain: open_study(config, domain) for domain in config.domains}
    with ray_session(config.resources) as concurrency:
        results = {}
        for domain, study in studies.items():
            session = _DomainSession(config, domain, study, tracker, display, concurrency)
            results[domain] = session.run()
    return StudyResult(results)


def validate(config: SweepConfig) -> None:
    """Check everything that ``run`` checks before it starts, and start nothing.

    Raises:
        ValueError: as ``run``.
    """
    config = resolve_paths(config)
    _check(config, build_tracker(config))


def _check(config: SweepConfig, tracker: Tracker) -> None:
    preflight.check_inputs(config)
    with preflight.writable(place_of(config).folder):
        preflight.check_tracker(tracker)
        preflight.check_recorded(place_of(config).optuna_file(), config)


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
        domain: _write(config, domain, rows, TestScores.read(place.study(domain)))
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


class _DomainSession:
    """One study, from its first missing trial to its report."""

    def __init__(
        self,
        config: SweepConfig,
        domain: str,
        study: optuna.Study,
        tracker: Tracker,
        display: Display,
        concurrency: int,
    ) -> None:
        self.config, self.domain, self.study = config, domain, study
        self.tracker, self.display, self.concurrency = tracker, display, concurrency
        self.place = place_of(config)

    def run(self) -> DomainResult:
        """Run what is missing, score the winner on the test items, write the report."""
        mark_interrupted(self.study)  # a session that was killed could not do it itself
        queue_interrupted(self.study)
        done = len(finished_trials(self.study))
        wanted = self.config.search.trials
        self.tracker.begin_study(self._info())
        pump = TrackerPump(self.tracker, self.display.say)
        try:
            self._send_unsent(pump)
            if done < wanted:
                self.display.say(
                    f"{self.domain}: {wanted - done} of {wanted} trials to run, "
                    f"{self.concurrency} at a time"
                )
                self._search(done, wanted, pump)
            else:
                self.display.say(f"{self.domain}: all {wanted} trials are done already")
            return self._conclude(pump)
        except BaseException:
            self._interrupted(pump)
            raise

    def _search(self, done: int, wanted: int, pump: TrackerPump) -> None:
        from sweeps.observer import StudyObserver
        from sweeps.tune import run_tuner

        tally = Tally(self.domain, wanted, done, self.concurrency)
        self.study.sampler = build_sampler(
            self.config.search, self.config.seed, len(self.study.get_trials(deepcopy=False))
        )
        search = StudySearch(self.study, self.config.space_of(self.domain), self._suggest)
        observer = StudyObserver(tally, self.display, pump, self.config.seed, self._drop_weights)
        folder = str(self.place.study(self.domain))
        run_tuner(self.config, search, observer, wanted - done, self.concurrency, folder)

    def _send_unsent(self, pump: TrackerPump) -> None:
        """Begin and end again what an earlier session could not tell the tracker."""
        from sweeps.observer import trial_info

        for trial in finished_trials(self.study):
            attrs = trial.user_attrs
            if "outcome" not in attrs:
                continue
            folder = self.place.trial(self.domain, attrs["key"])
            if not (folder / SENT_FILE).exists():
                point = self.config.space_of(self.domain).point(trial.params)
                job = {"key": attrs["key"], "number": attrs["number"], "point": point}
                pump.begin(trial_info(job, self.config.seed), folder)
                pump.end(attrs["key"], folder, attrs["outcome"])

    def _suggest(self, number: int, point: Point) -> Suggestion:
        run = self.config.trial(self.domain, point)
        key = trial_key(number, run, self.config.resources.workers)
        folder = self.place.trial(self.domain, key)
        return {
            "key": key,
            "number": number,
            "point": point,
            "folder": str(folder),
            "run": run.model_dump_json(),
        }

    def _drop_weights(self) -> None:
        """Keep only the models that the report will score: the best trial's and the control's."""
        rows = trial_rows(self.study, self.config.seed)
        kept = {row.key for row in (best_row(rows), best_sft_row(rows)) if row is not None}
        for row in rows:
            if row.key not in kept and row.state in ("finished", "stopped_early", "failed"):
                folder = self.place.trial(self.domain, row.key)
                for part in ("model", "checkpoint"):
                    shutil.rmtree(folder / part, ignore_errors=True)

    def _conclude(self, pump: TrackerPump) -> DomainResult:
        rows = trial_rows(self.study, self.config.seed)
        best = best_row(rows)
        folder = self.place.study(self.domain)
        chosen = {"best": best, "sft": best_sft_row(rows)}
        scores = score_on_test(self.config, self.domain, folder, chosen)
        paths = _write(self.config, self.domain, rows, scores)
        finals = {} if best is None or best.score is None else {"final/score": best.score}
        pump.finish_study("finished", [paths.html, paths.png, paths.csv], finals)
        if not pump.close(timeout=60):
            self.display.say("tracking: not everything could be sent; run it again to send it")
        links = tuple(self.tracker.links())
        return DomainResult(self.domain, rows, best, scores, paths, links)

    def _interrupted(self, pump: TrackerPump) -> None:
        """Mark what was running, in Optuna and in the tracker, within a few seconds."""
        for trial in mark_interrupted(self.study):
            if "key" in trial.user_attrs:
                pump.interrupt(trial.user_attrs["key"])
        pump.finish_study("interrupted", [], {})
        pump.close(timeout=5)

    def _info(self) -> StudyInfo:
        shared = self.config
        return StudyInfo(
            key=f"{shared.name}/{self.domain}",
            name=shared.name,
            domain=self.domain,
            config_yaml=config_yaml(shared),
            git_commit=git_commit(),
            note=f"Search over mask ratio, accumulation interval and learning rate: "
            f"{shared.search.trials} trials, sampler {shared.search.sampler}.",
            parameters={"model": shared.model.path, "trials": str(shared.search.trials)},
        )


def config_yaml(config: SweepConfig) -> str:
    """The resolved configuration as YAML that loads again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _write(
    config: SweepConfig, domain: str, rows: tuple[TrialRow, ...], scores: TestScores
) -> ReportPaths:
    metrics = [f"{b.name} {b.metric or ''}".strip() for b in config.domains[domain].benchmarks]
    data = StudyData(
        name=config.name,
        domain=domain,
        metric=", ".join(metrics),
        rows=rows,
        best=best_row(rows),
        test_results=scores.entries,
        config_yaml=config_yaml(config),
    )
    return write_report(data, place_of(config).study(domain) / "report")
