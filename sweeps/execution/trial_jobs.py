"""Turn a point of a study into the job that a worker group runs."""

from __future__ import annotations

from typing import Any, final

import optuna
import yaml

from sweeps.config.space import Point
from sweeps.config.study_identity import trial_key
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.report.arms import SFT, scored_at
from sweeps.report.trial_row import TrialRow
from sweeps.search.design import DERIVED, DROPS, DesignPoint
from sweeps.search.trial_records import trial_rows
from sweeps.storage.trial_files import RUN_FILE

Suggestion = dict[str, Any]
"""The configuration a trial starts with: the job for its group."""


@final
class TrialJobs:
    """Builds the jobs of one study."""

    def __init__(self, config: SweepConfig, domain: str, study: optuna.Study) -> None:
        self._config, self._domain, self._study = config, domain, study
        self._place = paths_for(config)

    def suggestion(self, number: int, point: Point) -> Suggestion:
        """The job of trial ``number``; also writes its run file, so that it can be run alone."""
        run = self._config.trial(self._domain, point)
        job: Suggestion = {
            "number": number,
            "point": point,
            "method": point.get("method", self._config.training.method),
            "run": run.model_dump_json(),
            "workers": self._config.resources.workers,
        }
        derived = None
        if point.get("method") in DERIVED:
            parent = self._parent(point)
            job |= {"derived": self._drop(point, parent), "parent_key": parent}
            derived = {"of": parent, "method": point["method"], "rate": point["mask_ratio"]}
        job["key"] = trial_key(number, run, job["workers"], derived)
        folder = self._place.trial(self._domain, job["key"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RUN_FILE).write_text(_yaml(run, job.get("derived")))
        return {**job, "folder": str(folder)}

    def model(self, row: TrialRow) -> dict[str, Any]:
        """A trial's model in the form `sweeps.execution.test_scoring` expects."""
        base = self._config.model.model_dump()
        if row.method in DERIVED:
            point = DesignPoint.of(row).params()
            return {"model": base, "drop": self._drop(point, self._parent(point))}
        folder = self._place.model(self._domain, row.key)
        return {"model": {**base, "path": str(folder), "revision": None}, "drop": None}

    def _parent(self, point: Point) -> str:
        """The key of the SFT trial with the same seed; empty for the base model."""
        if point["method"] not in DROPS:
            return ""
        rows = trial_rows(self._study, self._config.seed)
        return next(r.key for r in scored_at(rows, SFT, "replicate") if r.seed == point["seed"])

    def _drop(self, point: Point, parent: str) -> dict[str, Any] | None:
        """How the parent's update is dropped; None for the base model."""
        if not parent:
            return None
        return {
            "tuned": str(self._place.model(self._domain, parent)),
            "rule": str(point["method"]).removeprefix("drop_"),
            "rate": point["mask_ratio"],
            "seed": point["seed"],
        }


def _yaml(run: FinetuneConfig, drop: dict[str, Any] | None) -> str:
    tree = run.model_dump(mode="json")
    if drop is not None:
        tree["method"] = {"name": "drop", "drop": drop}
    return yaml.safe_dump(tree, sort_keys=False)
