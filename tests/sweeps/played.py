"""Studies on record, made as a session makes them but without Ray or training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sweeps.config.load import load_config, save_config
from sweeps.config.sweep_config import SweepConfig, paths_for, resolve_paths
from sweeps.execution.job_messages import Scored
from sweeps.execution.optuna_searcher import StudySearch
from sweeps.execution.study_observer import write_log
from sweeps.execution.sweep import open_study
from sweeps.execution.trial_jobs import TrialJobs
from tests.sweeps.jobs import suggested

FINISHED = {"state": "finished", "score": 0.5, "step": 8, "steps": 8, "time_total_s": 12.0}
OOM = {"state": "failed", "kind": "oom", "failure": "CUDA out of memory\nTraceback of it"}
DIVERGED = {"state": "diverged", "score": None, "reason": "update 3: the loss is nan"}
STOPPED = {"score": 0.25, "step": 4, "steps": 8, "time_total_s": 6.0}
RUNNING: dict[str, Any] = {}


class Groups:
    """No workers: a job's scores are nothing."""

    scored, started = False, False

    def __init__(self, count: int = 1) -> None:
        self.count, self.is_warm = count, False

    def start(self, jobs: int) -> None:
        self.started = self.started or jobs > 0

    def run(self, jobs: list[Any]) -> list[Scored]:
        self.scored = self.scored or bool(jobs)
        return [Scored({}, {}) for _ in jobs]


def play(*results: dict[str, Any], source: str | Path = "sweep.yaml") -> SweepConfig:
    """Record one trial for each result, in the sweep's only domain; returns its configuration.

    `RUNNING` leaves its trial running after a first check.
    """
    config = resolve_paths(load_config(source))
    (domain,) = config.domains
    study = open_study(config, domain)
    save_config(config)
    jobs = TrialJobs(config, domain, study)
    search = StudySearch(study, config.space_of(domain), jobs.trial)
    for number, result in enumerate(results):
        name = f"t{number}"
        job = suggested(search, name)
        if result is RUNNING:
            search.is_unpromising(name, {"score": 0.125, "step": 2, "steps": 8})
            continue
        search.on_trial_complete(name, result)
        if "failure" in result:
            write_log(Path(job.folder), result["failure"])
    return config


def trial_folders(config: SweepConfig) -> list[Path]:
    """The trials' folders, by number."""
    (domain,) = config.domains
    return sorted((paths_for(config).study(domain) / "trials").iterdir())
