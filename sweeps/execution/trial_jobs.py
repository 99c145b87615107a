"""Turn a point of a study into the job that a worker group runs."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import optuna
import yaml

from sweeps.config.search_space import Point
from sweeps.config.study_config import ArmConfig
from sweeps.config.study_identity import trial_key
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.execution.job_messages import ScoringJob, TrialJob
from sweeps.finetune.checkpoint import step_name
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.method_options import DropConfig
from sweeps.report.arms import SFT, scored_at
from sweeps.report.trial_row import TrialRow
from sweeps.search.attempt_records import FORK, lineages
from sweeps.search.design import DERIVED, DesignPoint
from sweeps.search.trial_records import trial_rows
from sweeps.storage.trial_files import RUN_FILE


@final
class TrialJobs:
    """Builds the jobs of one study."""

    def __init__(self, config: SweepConfig, domain: str, study: optuna.Study) -> None:
        self._config, self._domain, self._study = config, domain, study
        self._place = paths_for(config)

    def trial(self, number: int, point: Point) -> TrialJob:
        """The job of trial ``number``; also writes its run file, so that it can be run alone."""
        run = self._config.trial(self._domain, point)
        workers = self._config.resources.workers
        method = str(point.get("method", self._config.training.method))
        is_derived = method in DERIVED and "method" in point
        if point.get("stage") == FORK:
            return self._fork(number, point, method, run)
        parent = self._parent(point) if is_derived else ""
        drop = self._drop(point, parent)
        derived = {"of": parent, "method": method, "rate": point["mask_ratio"]}
        key = trial_key(number, run, workers, derived if is_derived else None)
        folder = self._folder(key, run, drop)
        return TrialJob(key, folder, number, point, method, run, workers, is_derived, drop, parent)

    def _fork(self, number: int, point: Point, method: str, run: FinetuneConfig) -> TrialJob:
        """A fork's job. Its parent's key, and not the checkpoint's place, is part of its own."""
        start, workers = lineages(self._study)[number], self._config.resources.workers
        key = trial_key(number, run, workers, {"fork_of": start.key, "step": start.step})
        place = self._place.fork_starts(self._domain, start.key) / step_name(start.step)
        run = run.model_copy(update={"start_from": str(place)})
        folder = self._folder(key, run, drop=None)
        job = TrialJob(key, folder, number, point, method, run, workers)
        return replace(job, parent=start.key, parent_step=start.step)

    def _folder(self, key: str, run: FinetuneConfig, drop: DropConfig | None) -> str:
        """The folder of a trial, with its run file."""
        folder = self._place.trial(self._domain, key)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RUN_FILE).write_text(_yaml(run, drop))
        return str(folder)

    def scoring(self, row: TrialRow) -> ScoringJob:
        """The job that scores a trial's model on the domain's test items."""
        model, drop = self._config.model, None
        if row.method in DERIVED:
            point = DesignPoint.of(row).params()
            drop = self._drop(point, self._parent(point))
        else:
            folder = self._place.model(self._domain, row.key)
            model = model.model_copy(update={"path": str(folder), "revision": None})
        benchmarks = tuple(self._config.domains[self._domain].benchmarks)
        key = f"{self._domain}/test/{row.key}"
        return ScoringJob(key, model, drop, benchmarks, self._config.training.threads)

    def _parent(self, point: Point) -> str:
        """The key of the SFT trial that a drop starts from; empty for the base model."""
        if point["method"] == "pretrained":
            return ""
        rows = trial_rows(self._study, self._config.seed)
        shared = ("seed", "accumulation_interval", "learning_rate")
        return next(
            row.key
            for row in scored_at(rows, SFT, str(point["stage"]))
            if all(getattr(row, name) == point[name] for name in shared)
        )

    def _drop(self, point: Point, parent: str) -> DropConfig | None:
        """How the parent's update is dropped; None without one."""
        if not parent:
            return None
        method = str(point["method"])
        arm = self._config.study.arms.get("drop_trivial", ArmConfig())
        return DropConfig.model_validate(
            {
                "tuned": str(self._place.model(self._domain, parent)),
                "rule": "random" if method == "dare" else method.removeprefix("drop_"),
                "rescale": method == "dare" or (method == "drop_trivial" and arm.rescale),
                "rate": point["mask_ratio"],
                "seed": point["seed"],
            }
        )


def _yaml(run: FinetuneConfig, drop: DropConfig | None) -> str:
    tree = run.model_dump(mode="json")
    if drop is not None:
        tree["method"] = {"name": "drop", "drop": drop.model_dump(mode="json")}
    return yaml.safe_dump(tree, sort_keys=False)
