"""One study of one domain: its missing trials, the test items at the end, its report."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import optuna

from sweeps.config import SweepConfig
from sweeps.designs.build import build_design
from sweeps.designs.point import DERIVED, DROPS, DesignPoint, DesignSpace
from sweeps.efficiency import measured
from sweeps.final_scores import TestScores, score_on_test
from sweeps.identity import git_commit, trial_key
from sweeps.place import place_of
from sweeps.progress import Display, Tally
from sweeps.pump import SENT_FILE, TrackerPump
from sweeps.report.data import TrialRow
from sweeps.report.settings import SFT, scored_at
from sweeps.report.write import ReportPaths
from sweeps.reporting import config_yaml, study_finals, write_study_report
from sweeps.rows import best_row, best_sft_row, trial_rows
from sweeps.search import (
    StudySearch,
    Suggestion,
    build_sampler,
    finished_trials,
    mark_interrupted,
    queue_interrupted,
    queue_points,
)
from sweeps.space import Point
from sweeps.tracking import StudyInfo, Tracker

if TYPE_CHECKING:
    from sweeps.worker_group import WorkerGroups


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
class DomainSession:
    """One study, from its first missing trial to its report."""

    def __init__(
        self,
        config: SweepConfig,
        domain: str,
        study: optuna.Study,
        tracker: Tracker,
        display: Display,
        groups: WorkerGroups,
    ) -> None:
        self.config, self.domain, self.study = config, domain, study
        self.tracker, self.display, self.groups = tracker, display, groups
        self.place = place_of(config)
        self.design = build_design(config, domain)
        self.space = DesignSpace() if self.design else config.space_of(domain)

    def run(self) -> DomainResult:
        """Run what is missing, score the chosen on the test items, write the report."""
        mark_interrupted(self.study)  # a session that was killed could not do it itself
        queue_interrupted(self.study)
        self.tracker.begin_study(self._info())
        pump = TrackerPump(self.tracker, self.display.say)
        try:
            self._send_unsent(pump)
            self._run_missing(pump)
            return self._conclude(pump)
        except BaseException:
            self._interrupted(pump)
            raise

    def _run_missing(self, pump: TrackerPump) -> None:
        """Trials until none is missing: a design's next stage follows from the one before."""
        before = -1
        while (left := self._missing()) and before < (done := len(finished_trials(self.study))):
            self.display.say(
                f"{self.domain}: {left} of {done + left} trials to run, "
                f"{self.groups.count} at a time"
            )
            self._search(done, done + left, pump)
            before = done
        if before < 0 and self.config.study.kind != "efficiency":
            done = len(finished_trials(self.study))
            self.display.say(f"{self.domain}: all {done} trials are done already")

    def _missing(self) -> int:
        if self.config.study.kind == "efficiency":
            return 0
        if self.design is None:
            return max(0, self.config.search.trials - len(finished_trials(self.study)))
        points = self.design.points(trial_rows(self.study, self.config.seed))
        return queue_points(self.study, [point.params() for point in points])

    def _search(self, done: int, wanted: int, pump: TrackerPump) -> None:
        from sweeps.observer import StudyObserver
        from sweeps.tune import run_tuner

        tally = Tally(self.domain, wanted, done, self.groups.count)
        self.study.sampler = build_sampler(
            self.config.search, self.config.seed, len(self.study.get_trials(deepcopy=False))
        )
        search = StudySearch(self.study, self.space, self._suggest)
        observer = StudyObserver(tally, self.display, pump, self.config.seed, self._drop_weights)
        folder = str(self.place.study(self.domain))
        run_tuner(self.config, search, observer, wanted - done, self.groups, folder)

    def _send_unsent(self, pump: TrackerPump) -> None:
        """Begin and end again what an earlier session could not tell the tracker."""
        from sweeps.observer import trial_info

        for trial in finished_trials(self.study):
            attrs = trial.user_attrs
            if "outcome" not in attrs:
                continue
            folder = self.place.trial(self.domain, attrs["key"])
            if not (folder / SENT_FILE).exists():
                point = self.space.point(trial.params)
                job = {"key": attrs["key"], "number": attrs["number"], "point": point}
                pump.begin(trial_info(job, self.config.seed), folder)
                pump.end(attrs["key"], folder, attrs["outcome"])

    def _suggest(self, number: int, point: Point) -> Suggestion:
        run = self.config.trial(self.domain, point)
        workers = self.config.resources.workers
        job: Suggestion = {"number": number, "point": point, "run": run.model_dump_json()}
        if point.get("method") in DERIVED:
            job["derived"] = self._drop(point)
            job["key"] = trial_key(number, run, workers, {"drop": job["derived"]})
        else:
            job["key"] = trial_key(number, run, workers)
        return {**job, "folder": str(self.place.trial(self.domain, job["key"]))}

    def _drop(self, point: Point) -> dict[str, Any] | None:
        """What is dropped of the SFT model of the same seed; None for the base model."""
        if point["method"] not in DROPS:
            return None
        rows = trial_rows(self.study, self.config.seed)
        tuned = next(r for r in scored_at(rows, SFT, "replicate") if r.seed == point["seed"])
        return {
            "tuned": str(self.place.trial(self.domain, tuned.key) / "model"),
            "rule": str(point["method"]).removeprefix("drop_"),
            "rate": point["mask_ratio"],
            "seed": point["seed"],
        }

    def _drop_weights(self) -> None:
        """Keep only the models that are still needed: to be scored, or to derive others."""
        rows = trial_rows(self.study, self.config.seed)
        kept = {row.key for row in (best_row(rows), best_sft_row(rows)) if row is not None}
        if self.design is not None:
            kept = {row.key for row in rows if self.design.keeps_model(row, rows)}
        for row in rows:
            if row.key not in kept and row.state in ("finished", "stopped_early", "failed"):
                folder = self.place.trial(self.domain, row.key)
                for part in ("model", "checkpoint"):
                    shutil.rmtree(folder / part, ignore_errors=True)

    def _conclude(self, pump: TrackerPump) -> DomainResult:
        rows = trial_rows(self.study, self.config.seed)
        folder = self.place.study(self.domain)
        if self.config.study.kind == "efficiency":
            measured(self.config, self.domain)
        models = {row.key: self._model(row) for row in self._chosen(rows).values()}
        chosen = {role: row.key for role, row in self._chosen(rows).items()}
        scores = score_on_test(self.config, self.domain, folder, chosen, models, self.groups)
        paths = write_study_report(self.config, self.domain, self.study, rows, scores)
        finals = study_finals(self.config, self.domain, self.study, rows, scores)
        pump.finish_study("finished", [p for p in paths.all() if p.exists()], finals)
        if not pump.close(timeout=60):
            self.display.say("tracking: not everything could be sent; run it again to send it")
        links = tuple(self.tracker.links())
        return DomainResult(self.domain, rows, best_row(rows), scores, paths, links)

    def _chosen(self, rows: tuple[TrialRow, ...]) -> dict[str, TrialRow]:
        """Whom the test items are read for: role to trial, chosen on validation items alone."""
        if self.design is not None:
            return {row.key: row for row in self.design.tested(rows)}
        roles = {"best": best_row(rows), "sft": best_sft_row(rows)}
        return {role: row for role, row in roles.items() if row is not None}

    def _model(self, row: TrialRow) -> dict[str, Any]:
        """The model of a trial as `sweeps.final_scores` takes it."""
        base = self.config.model.model_dump()
        if row.method in DERIVED:
            return {"model": base, "drop": self._drop(DesignPoint.of(row).params())}
        folder = self.place.trial(self.domain, row.key) / "model"
        return {"model": {**base, "path": str(folder), "revision": None}, "drop": None}

    def _interrupted(self, pump: TrackerPump) -> None:
        """Mark what was running, in Optuna and in the tracker, within a few seconds."""
        for trial in mark_interrupted(self.study):
            if "key" in trial.user_attrs:
                pump.interrupt(trial.user_attrs["key"])
        pump.finish_study("interrupted", [], {})
        pump.close(timeout=5)

    def _info(self) -> StudyInfo:
        shared = self.config
        trials = str(shared.search.trials) if self.design is None else "fixed design"
        note = (
            f"Search over mask ratio, accumulation interval and learning rate: {trials} trials, "
            f"sampler {shared.search.sampler}."
            if self.design is None
            else f"Fixed design '{shared.study.kind}': {shared.study.seeds} seeds for each arm."
        )
        return StudyInfo(
            key=f"{shared.name}/{self.domain}",
            name=shared.name,
            domain=self.domain,
            config_yaml=config_yaml(shared),
            git_commit=git_commit(),
            note=note,
            parameters={
                "model": shared.model.path,
                "trials": trials,
                "kind": shared.study.kind,
            },
            trial_kind="trial" if self.design is None else "replicate",
        )
