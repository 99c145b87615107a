"""The studies of domains: their missing trials, the test items at the end, their reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import optuna
from filelock import FileLock
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from sweeps.config.budget import StopCondition
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.execution.efficiency_study import MEASURED, measured
from sweeps.execution.progress import Display, Tally, recorded_best
from sweeps.execution.reporting import study_info
from sweeps.execution.study_search import StudySearch
from sweeps.execution.test_scores import TestScores
from sweeps.execution.test_scoring import score_on_test
from sweeps.execution.trial_jobs import TrialJobs
from sweeps.execution.worker_session import imported_meanwhile
from sweeps.report.trial_row import TrialRow
from sweeps.report.write_report import ReportPaths
from sweeps.search.attempts import (
    finished_trials,
    mark_interrupted,
    queue_interrupted,
    queue_points,
)
from sweeps.search.design import DesignSpace
from sweeps.search.fixed_designs import build_design
from sweeps.search.pending_trials import SearchSpace, has_unplanned, queue_missing
from sweeps.search.pruners import build_pruner
from sweeps.search.retention import drop_weights, remove_orphans
from sweeps.search.trial_records import best_row, best_sft_row, trial_rows
from sweeps.storage.errors import UserError
from sweeps.storage.remote_sync import fetcher, remover
from sweeps.storage.run_lock import Driver, living_drivers
from sweeps.storage.trial_files import SENT_FILE
from sweeps.tracking.pump import TrackerPump
from sweeps.tracking.tracker import Tracker, TrialState

if TYPE_CHECKING:
    from sweeps.execution.study_observer import StudyObserver
    from sweeps.execution.trial_batch import TrialBatch
    from sweeps.execution.worker_groups import WorkerGroups


TRACKER_PATIENCE_SECONDS = 180.0
"""How long the end of a study waits for a tracker that does not answer."""

TRACKER_HASTE_SECONDS = 5.0
"""The same, where a person has asked for the end."""


@final
@dataclass(frozen=True)
class DomainResult:
    """One domain's study: its trials, the best on validation items, and its report.

    ``links``: (label, text) pairs that say where the tracker shows it. ``stopped``: how the
    budget ended it before all was done; else empty. ``measured``: whether a study of efficiency,
    which has no trials, is done.
    """

    domain: str
    rows: tuple[TrialRow, ...]
    best: TrialRow | None
    test_scores: TestScores
    report: ReportPaths
    links: tuple[tuple[str, str], ...]
    stopped: str = ""
    measured: bool = False

    def is_reached(self) -> bool:
        """Whether there is anything to show: a finished trial, or the measurement."""
        return self.best is not None or self.measured


def run_together(sessions: Sequence[DomainSession]) -> dict[str, DomainResult]:
    """One study, or several side by side, from their first missing trials to their reports.

    Raises:
        UserError: trials failed for a reason that others would share.
    """
    with ExitStack() as stack:
        for session in sessions:
            stack.enter_context(session.opened())
        one = sessions[0]  # what they share they all hold
        while not one.halt.due() and (waves := [w for s in sessions if (w := s.wave())]):
            from sweeps.execution.tuner import run_tuner

            run_tuner(one.config, waves, one.halt, one.groups, str(one.place.study(one.domain)))
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
        driver: Driver,
        halt: StopCondition,
    ) -> None:
        self.config, self.domain, self.study = config, domain, study
        self.tracker, self.display, self.groups = tracker, display, groups
        self.driver, self.halt = driver, halt
        self.place = paths_for(config)
        self._fetch, self._remove = fetcher(self.place), remover(self.place)
        self.turn = FileLock(self.place.queue_lock())
        self.design = build_design(config, domain)
        self.jobs = TrialJobs(config, domain, study)
        self.space = DesignSpace() if self.design else SearchSpace(config.space_of(domain))
        self._done_before, self._is_over = -1, False

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The study is on record as running; whatever ends the ``with`` too soon is, too."""
        self._take_up()
        if not self._others():
            remove_orphans(self.place.study(self.domain), self.study, self._remove)
        if not self.halt.due():
            self.groups.start(self._missing())  # which takes long: first of all
        self._pump = TrackerPump(self.tracker, self.display.say, self._fetch)
        try:
            self._pump.begin_study(study_info(self.config, self.domain, self.design))
            self._send_unsent()
            yield
        except BaseException as error:
            if not self._is_over:  # else it is the error of a study beside this one
                self._interrupted(error)
            raise

    def wave(self) -> TrialBatch | None:
        """The trials that are missing now; a design's next ones may follow from their results.
        None where none is missing, or those of the wave before all came to nothing."""
        from sweeps.execution.trial_batch import TrialBatch

        is_first = self._done_before < 0
        if not is_first:
            self._take_up()
        left, done = self._missing(), len(finished_trials(self.study))
        is_stuck, short = done <= self._done_before, self.config.shortfall(self.domain)
        self._done_before = done if left else done - 1  # with none left, no wave came to nothing
        if not left or is_stuck:
            if is_first and self.config.study.kind != "efficiency":
                self.display.say(f"{self.domain}: all {done} trials are done already")
            if short and not left:
                self.display.say(f"{self.domain}: the space is exhausted: {short}")
            return None
        if short and is_first:
            self.display.say(f"{self.domain}: {short}")
        self.display.say(
            f"{self.domain}: {left} of {done + left} trials to run{self._method()}, "
            f"{min(left, self.groups.count)} at a time"
        )
        search = self._search()
        return TrialBatch(search, self._observer(search, done, done + left), left)

    def result(self) -> DomainResult:
        """Score the chosen on the test items and write the report.

        Where the budget ended it, the report is written without the test items, which are read
        once, when all trials are done; so is it where other drivers still run trials of it. A
        budget that the last trial reached ended nothing.

        Raises:
            UserError: trials failed for a reason that others would share.
        """
        if self.halt.due() and not (self.halt.by_budget and self._is_done()):
            return self._halted()
        return self._conclude(complete=not self._running())

    def _is_done(self) -> bool:
        if self.config.study.kind == "efficiency":
            return self._is_measured()
        return not self._running() and not self._missing()

    def _is_measured(self) -> bool:
        return (self.place.study(self.domain) / MEASURED).exists()

    def _method(self) -> str:
        """What masks the trials of a search, where it is not GMT and none of them says it."""
        shared = self.config.training.method
        is_said = self.design is not None or self.config.space_of(self.domain).method is not None
        return "" if is_said or shared == "gmt" else f" with method {shared}"

    def _missing(self) -> int:
        if self.config.study.kind == "efficiency":
            return 0
        if self.design is None:
            with self.turn:
                return queue_missing(self.study, self.config, self.domain, self._others())
        points = self.design.points(trial_rows(self.study, self.config.seed))
        with self.turn:  # two drivers must not queue a point twice
            return queue_points(self.study, [point.params() for point in points])

    def _more(self) -> bool:
        """Whether a trial is still to be started, by whichever driver comes first."""
        waiting = self.study.get_trials(deepcopy=False, states=(OptunaState.WAITING,))
        if waiting or self.design is not None:
            return bool(waiting)
        return has_unplanned(self.study, self.config, self.domain)

    def _others(self) -> set[str]:
        """The ids of the other drivers of this sweep."""
        living = {driver.id for driver in living_drivers(self.place.folder)}
        return living - {self.driver.id}

    def _mark_interrupted(self) -> list[FrozenTrial]:
        with self.turn:  # another driver may have begun a trial and not yet put its name to it
            return mark_interrupted(self.study, self._others())

    def _take_up(self) -> None:
        """Queue again what drivers that were killed could not mark themselves."""
        with self.turn:
            self._mark_interrupted()
            queue_interrupted(self.study)

    def _running(self) -> list[FrozenTrial]:
        """Trials that other drivers run right now, or ran until they were killed."""
        return self.study.get_trials(deepcopy=False, states=(OptunaState.RUNNING,))

    def _search(self) -> StudySearch:
        if self.design is None:
            self.study.pruner = build_pruner(self.config.search, self.config.evaluation.checks)
        return StudySearch(
            self.study,
            self.space,
            self.jobs.suggestion,
            checks=self.config.evaluation.checks,
            starts=len(self.config.search.start),
            objectives=self.config.objectives(),
            driver=self.driver.id,
            turn=self.turn,
            more=self._more,
            halting=self.halt.due,
            fetch=self._fetch,
        )

    def _observer(self, search: StudySearch, done: int, wanted: int) -> StudyObserver:
        from sweeps.execution.study_observer import StudyObserver

        tally = Tally(self.domain, wanted, done, self.groups.count)
        tally.best = recorded_best(best_row(trial_rows(self.study, self.config.seed)))
        seed = self.config.seed
        return StudyObserver(
            search, tally, self.display, self._pump, self.halt, seed, self._drop_weights
        )

    def _send_unsent(self) -> None:
        """Begin and end again what an earlier session could not tell the tracker."""
        from sweeps.execution.study_observer import trial_info

        for trial in finished_trials(self.study):
            attrs = trial.user_attrs
            if "outcome" not in attrs:
                continue
            folder = self.place.trial(self.domain, attrs["key"])
            if not (folder / SENT_FILE).exists():
                point = self.space.point(trial.params)
                job = {"key": attrs["key"], "number": attrs["number"], "point": point}
                job["method"] = attrs.get("method", self.config.training.method)
                self._pump.begin(trial_info(job, self.config.seed), folder)
                self._pump.end(attrs["key"], folder, attrs["outcome"])

    def _drop_weights(self) -> None:
        rows = trial_rows(self.study, self.config.seed)
        trials = self.place.study(self.domain) / "trials"
        drop_weights(trials, rows, self.config.keep, self.design, self._remove)

    def _halted(self) -> DomainResult:
        """The study ends before its trials are done: by its budget, or by their failures."""
        for trial in self._mark_interrupted():
            self._pump.interrupt(trial.user_attrs.get("key", ""))
        if not self.halt.by_budget:
            raise UserError(f"{self.domain}: stopped, for {self.halt.reason}")
        self.display.say(f"{self.domain}: stopped, for {self.halt.reason}")
        return replace(self._conclude(complete=False), stopped=self.halt.reason)

    def _conclude(self, *, complete: bool) -> DomainResult:
        self._remove = remover(self.place)  # once more: a trial may have sent what was removed
        self._drop_weights()
        rows = trial_rows(self.study, self.config.seed)
        with imported_meanwhile("sweeps.execution.reporting"):  # Matplotlib and scipy are in it
            scores = self._test_scores(rows) if complete else TestScores()
        from sweeps.execution.reporting import study_finals, write_study_report

        paths = write_study_report(self.config, self.domain, self.study, rows, scores)
        finals = study_finals(self.config, self.domain, self.study, rows, scores)
        state: TrialState = "finished" if complete else "interrupted"
        self._pump.finish_study(state, [p for p in paths.all() if p.exists()], finals)
        self._close(TRACKER_PATIENCE_SECONDS)
        self._is_over = True
        links, measured = self._pump.links(), self._is_measured()
        best = best_row(rows)
        return DomainResult(self.domain, rows, best, scores, paths, links, measured=measured)

    def _test_scores(self, rows: tuple[TrialRow, ...]) -> TestScores:
        folder = self.place.study(self.domain)
        if self.config.study.kind == "efficiency":
            measured(self.config, self.domain, self.groups)
        models = {row.key: self.jobs.model(row) for row in self._chosen(rows).values()}
        chosen = {role: row.key for role, row in self._chosen(rows).items()}
        return score_on_test(self.config, self.domain, folder, chosen, models, self.groups)

    def _chosen(self, rows: tuple[TrialRow, ...]) -> dict[str, TrialRow]:
        """Whom the test items are read for: role to trial, chosen on validation items alone."""
        if self.design is not None:
            return {row.key: row for row in self.design.tested(rows)}
        roles = {"best": best_row(rows), "sft": best_sft_row(rows)}
        return {role: row for role, row in roles.items() if row is not None}

    def _interrupted(self, error: BaseException) -> None:
        """Mark what was running, in Optuna and in the tracker; trouble with that is said, and
        never takes the place of ``error``. Who asked for the end waits for it only seconds."""
        try:
            for trial in self._mark_interrupted():
                if "key" in trial.user_attrs:
                    self._pump.interrupt(trial.user_attrs["key"])
        except Exception as trouble:
            self.display.say(
                f"{self.domain}: what ran is still on record as running ({trouble}); the next "
                "`run` or `resume` mends that"
            )
        self._pump.finish_study("interrupted", [], {})
        patient = isinstance(error, UserError)
        self._close(TRACKER_PATIENCE_SECONDS if patient else TRACKER_HASTE_SECONDS)

    def _close(self, patience_seconds: float) -> None:
        if not self._pump.close(timeout=patience_seconds):
            self.display.say("tracking: not everything could be sent; run it again to send it")
