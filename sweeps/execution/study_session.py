"""Run the studies of domains: their missing trials, the final test scores and the reports."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, final

import optuna
from optuna.trial import TrialState as OptunaState

from sweeps.config.budget import StopCondition
from sweeps.config.failure_kinds import STOPS_THE_STUDY
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.execution.domain_result import DomainResult
from sweeps.execution.driver_log import publish_links
from sweeps.execution.efficiency_study import MEASURED, measured
from sweeps.execution.optuna_searcher import StudySearch
from sweeps.execution.progress import Display, recorded_best
from sweeps.execution.report_data import StudyRecord
from sweeps.execution.reporting import study_findings, study_info, write_study_report
from sweeps.execution.shared_trials import take_over, trained_elsewhere
from sweeps.execution.study_tally import Tally
from sweeps.execution.test_scoring import TestScores, score_on_test
from sweeps.execution.trial_jobs import TrialJobs
from sweeps.report.trial_row import TrialRow
from sweeps.search.attempt_records import (
    KEY,
    Lineage,
    finished_trials,
    latest_attempts,
    mark_interrupted,
    queue_interrupted,
    queue_points,
    recorded_params,
)
from sweeps.search.changed_space import is_later_version
from sweeps.search.design import DesignSpace
from sweeps.search.fixed_designs import build_design
from sweeps.search.pending_trials import SearchSpace, queue_missing
from sweeps.search.point_seeds import PointSeeds
from sweeps.search.pruners import build_pruner
from sweeps.search.requests import Inbox
from sweeps.search.retention import drop_weights, remove_orphans
from sweeps.search.retry import queue_again
from sweeps.search.trial_records import best_row, best_sft_row, trial_rows
from sweeps.storage.errors import UserError
from sweeps.storage.remote_sync import fetcher, remover
from sweeps.storage.study_paths import alone
from sweeps.storage.trial_files import SENT_FILE
from sweeps.tracking.tracker import Tracker, TrialState
from sweeps.tracking.tracker_pump import TrackerPump

if TYPE_CHECKING:
    from sweeps.execution.study_observer import StudyObserver
    from sweeps.execution.trial_batch import TrialBatch
    from sweeps.execution.worker_groups import WorkerGroups

TRACKER_PATIENCE_SECONDS, TRACKER_HASTE_SECONDS = 180.0, 5.0
"""How long the end of a study waits for a tracker that does not respond: normally, and after the
user asked to stop."""


def run_together(sessions: Sequence[DomainSession]) -> dict[str, DomainResult]:
    """Run one study, or several in parallel, from the first missing trials to the reports.

    Raises:
        UserError: trials failed for a reason that would fail the others too.
    """
    with ExitStack() as stack:
        for session in sessions:
            stack.enter_context(session.opened())
        one = sessions[0]  # any of them: all hold the shared objects
        place = str(one.place.study(one.domain))
        while not one.stop_condition.due():
            batches = [batch for session in sessions if (batch := session.next_batch())]
            if not batches:
                break
            from sweeps.execution.tuner import run_tuner

            run_tuner(one.config, batches, one.stop_condition, one.groups, place)
        return {session.domain: session.result() for session in sessions}


@final
class DomainSession:
    """One study, from its first missing trial to its report; see `run_together`."""

    def __init__(
        self,
        config: SweepConfig,
        domain: str,
        study: optuna.Study,
        tracker: Tracker,
        display: Display,
        groups: WorkerGroups,
        stop_condition: StopCondition,
    ) -> None:
        self.config, self.domain, self.study = config, domain, study
        self.tracker, self.display, self.groups = tracker, display, groups
        self.stop_condition = stop_condition
        self.place = paths_for(config)
        self._fetch, self._remove = fetcher(self.place), remover(self.place)
        self.design = build_design(config, domain)
        self.jobs = TrialJobs(config, domain, study)
        self.space = DesignSpace() if self.design else SearchSpace(config.space_of(domain))
        self.seeds = PointSeeds(study, config)
        self.inbox = Inbox(config, domain, study, display.say)
        self._done_before, self._is_over = -1, False
        self._taken: list[str] = []

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Record the study as running. An early exit is recorded as an interruption."""
        self._elsewhere = trained_elsewhere(self.config, self.domain) if self.design else {}
        mark_interrupted(self.study)  # of killed drivers, which could not do it
        queue_interrupted(self.study)
        # Each failed for a reason of the machine or the configuration, mended since then.
        trial_folder = partial(self.place.trial, self.domain)
        queue_again(self.study, STOPS_THE_STUDY, trial_folder, self._remove)
        self.seeds.settle()
        folder = self.place.study(self.domain)
        remove_orphans(folder, self.study, self._remove)
        if not self.stop_condition.due():
            self.groups.start(self._missing())  # takes long, so start first
        self._pump = TrackerPump(
            self.tracker, self.display.say, self._fetch, lambda links: publish_links(folder, links)
        )
        try:
            self._pump.begin_study(study_info(self.config, self.domain, self.design))
            self._send_unsent([t.user_attrs.get(KEY, "") for t in self.study.trials])
            self._tell_taken()
            yield
        except BaseException as error:
            if not self._is_over:  # else another study raised the error
                self._interrupted(error)
            raise

    def next_batch(self) -> TrialBatch | None:
        """The trials that are missing now; a design may derive its next ones from their results.
        None if no trial is missing, or if no trial of the previous batch finished."""
        from sweeps.execution.trial_batch import TrialBatch

        is_first = self._done_before < 0
        left, done = self._missing(), len(finished_trials(self.study))
        self._send_unsent(self._taken)
        self._tell_taken()
        is_stuck, short = done <= self._done_before, self.config.shortfall(self.domain)
        self._done_before = done
        if not left or is_stuck:
            if is_first and self.config.study.kind != "efficiency":
                self.display.say(f"{self.domain}: all {done} trials are already done")
            if short and not left:
                self.display.say(f"{self.domain}: the space is exhausted: {short}")
            return None
        if short and is_first:
            self.display.say(f"{self.domain}: {short}")
        self.display.say(
            f"{self.domain}: {left} of {done + left} trials to run{self._method()}, "
            f"{min(left, self.groups.count)} at a time"
        )
        self.display.phase("training" if self.groups.is_warm else "starting workers")
        search = self._search()
        return TrialBatch(search, self._observer(search, done, done + left), left)

    def result(self) -> DomainResult:
        """Score the chosen trials on test items and write the report.

        Test items are read once, when all trials are done. If the budget ended the study, the
        report is written without them. A budget that the last trial used up did not end the study.

        Raises:
            UserError: trials failed for a reason that would fail the others too.
        """
        if self.stop_condition.due() and not (self.stop_condition.by_budget and self._is_done()):
            return self._stopped()
        return self._conclude(complete=True)

    def _is_done(self) -> bool:
        if self.config.study.kind == "efficiency":
            return self._is_measured()
        cut_short = self.study.get_trials(deepcopy=False, states=(OptunaState.RUNNING,))
        return not cut_short and not self._missing()

    def _is_measured(self) -> bool:
        return (self.place.study(self.domain) / MEASURED).exists()

    def _method(self) -> str:
        """The method of a search's trials, if it is not GMT and not part of their points."""
        shared = self.config.training.method
        is_said = self.design is not None or self.config.space_of(self.domain).method is not None
        return "" if is_said or shared == "gmt" else f" with method {shared}"

    def _missing(self) -> int:
        if self.config.study.kind == "efficiency":
            return 0
        if self.design is None:
            self.inbox.accept()
            return queue_missing(self.study, self.config, self.domain)
        points = self.design.points(trial_rows(self.study, self.config.seed))
        place = self.config, self.domain, self.study
        if taken := take_over(*place, self.design, points, self._elsewhere):
            self._taken += taken
            return self._missing()  # more points may follow from these
        return queue_points(self.study, [point.params() for point in points])

    def _search(self) -> StudySearch:
        if self.design is None:
            self.study.pruner = build_pruner(self.config.search, self.config.evaluation.checks)
        return StudySearch(
            self.study,
            self.space,
            self.jobs.trial,
            checks=self.config.evaluation.checks,
            starts=len(self.config.search.start),
            objectives=self.config.objectives(),
            constraints=self.config.search.constraints if self.design is None else (),
            seeds=self.seeds,
            stopping=self.stop_condition.due,
            fetch=self._fetch,
            inbox=self.inbox if self.design is None else None,
        )

    def _observer(self, search: StudySearch, done: int, wanted: int) -> StudyObserver:
        from sweeps.execution.study_observer import StudyObserver

        tally = Tally(self.domain, wanted, done)

        def recorded() -> None:
            tally.best = recorded_best(best_row(self._drop_weights()))

        recorded()
        seed = self.config.seed
        return StudyObserver(
            search, tally, self.display, self._pump, self.stop_condition, seed, recorded
        )

    def _send_unsent(self, keys: Collection[str]) -> None:
        """Send the tracker those of these trials that it does not have: an earlier session could
        not send them, or another study trained them."""
        from sweeps.execution.study_observer import trial_info

        for trial in latest_attempts(self.study):
            attrs = trial.user_attrs
            if not {KEY, "outcome"} <= attrs.keys() or attrs[KEY] not in keys:
                continue
            folder = self.place.trial(self.domain, attrs["key"])
            if not (folder / SENT_FILE).exists():
                point = self.space.point(recorded_params(trial))
                method = attrs.get("method", self.config.training.method)
                found = Lineage.of(trial)
                parent = (found.key, found.step) if found else ()
                seed = self.config.seed
                info = trial_info(attrs["key"], attrs["number"], method, point, seed, *parent)
                self._pump.begin(info, folder)
                self._pump.end(attrs["key"], folder, attrs["outcome"])

    def _tell_taken(self) -> None:
        if self._taken:
            self.display.say(
                f"{self.domain}: {len(self._taken)} trials were trained in another study of this "
                "paper and are taken from there"
            )
        self._taken = []

    def _drop_weights(self) -> tuple[TrialRow, ...]:
        rows = trial_rows(self.study, self.config.seed)
        trials = self.place.study(self.domain) / "trials"
        drop_weights(trials, rows, self.config.keep, self.design, self._remove)
        return rows

    def _stopped(self) -> DomainResult:
        """End the study before its trials are done, because of its budget or of failures."""
        for trial in mark_interrupted(self.study):
            self._pump.interrupt(trial.user_attrs.get("key", ""))
        if not self.stop_condition.by_budget:
            raise UserError(f"{self.domain}: stopped because {self.stop_condition.reason}")
        self.display.say(f"{self.domain}: stopped because {self.stop_condition.reason}")
        return replace(self._conclude(complete=False), stopped=self.stop_condition.reason)

    def _conclude(self, *, complete: bool) -> DomainResult:
        self._remove = remover(self.place)  # again: a trial may have uploaded removed files since
        rows = self._drop_weights()
        self.display.phase("scoring test items")
        scores = self._test_scores(rows) if complete else TestScores()
        self.display.phase("writing reports")
        record = StudyRecord(self.config, self.domain, self.study, rows, scores)
        paths = write_study_report(record)
        finals, facts = study_findings(record)
        state: TrialState = "finished" if complete else "interrupted"
        self._pump.describe_study(facts)
        self._pump.finish_study(state, [p for p in paths.all() if p.exists()], finals)
        self._close(TRACKER_PATIENCE_SECONDS)
        self._is_over = True
        if self.inbox.waits():
            self.display.say(f"{self.domain}: a request came too late: run the sweep again for it")
        measured = self._is_measured()
        return DomainResult(self.domain, rows, best_row(rows), scores, paths, measured=measured)

    def _test_scores(self, rows: tuple[TrialRow, ...]) -> TestScores:
        if self.config.study.kind == "efficiency":
            self.display.phase("measuring speed")
            measured(self.config, self.domain, self.groups)
        chosen = self._chosen(rows)
        jobs = {row.key: self.jobs.scoring(row) for row in chosen.values()}
        keys = {role: row.key for role, row in chosen.items()}
        return score_on_test(self.place.study(self.domain), jobs, keys, self.groups)

    def _chosen(self, rows: tuple[TrialRow, ...]) -> dict[str, TrialRow]:
        """The trials to score on test items, by role; chosen on validation items only."""
        if self.design is not None:
            return {row.key: row for row in self.design.tested(rows)}
        roles = {"best": best_row(rows), "sft": best_sft_row(rows)}
        return {role: row for role, row in roles.items() if row and self._has_weights(row)}

    def _has_weights(self, row: TrialRow) -> bool:
        """Whether a trial's model can be scored: when it was not the best, its weights went."""
        model = self.place.model(self.domain, row.key)
        has = not is_later_version(self.study) or self.place.address or model.is_dir()
        if not has:
            self.display.say(
                f"{self.domain}: trial {row.number} is not scored on test items: it was not the "
                "best before the space changed, so its weights were removed; "
                f"`{alone(model.parent)}` retrains it"
            )
        return bool(has)

    def _interrupted(self, error: BaseException) -> None:
        """Mark running trials as interrupted in Optuna and in the tracker. A failure of that is
        reported and never replaces ``error``. After a user's stop, wait only a few seconds."""
        self.display.phase("stopping workers")
        try:
            for trial in mark_interrupted(self.study):
                if "key" in trial.user_attrs:
                    self._pump.interrupt(trial.user_attrs["key"])
        except Exception as trouble:
            self.display.say(
                f"{self.domain}: interrupted trials are still recorded as running ({trouble}); "
                "the next `run` or `resume` corrects that"
            )
        self._pump.finish_study("interrupted", [], {})
        patient = isinstance(error, UserError)
        self._close(TRACKER_PATIENCE_SECONDS if patient else TRACKER_HASTE_SECONDS)

    def _close(self, patience_seconds: float) -> None:
        if not self._pump.close(timeout=patience_seconds):
            self.display.say("tracking: some events were not sent; run it again to send them")
