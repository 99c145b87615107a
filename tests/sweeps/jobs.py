"""Jobs of a sweep for tests, which train nothing unless a test says what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sweeps.config.search_space import Point
from sweeps.execution.job_messages import TrialJob
from sweeps.execution.optuna_searcher import StudySearch
from tests.sweeps.finetune import tiny

POINT: Point = {"mask_ratio": 0.2, "accumulation_interval": 1, "learning_rate": 1e-3}


def trial_job(number: int = 0, point: Point | None = None, **changes: Any) -> TrialJob:
    """Trial ``number`` of the tiny world, whose key is its number."""
    given: dict[str, Any] = {
        "key": str(number),
        "folder": "",
        "method": str((point or POINT).get("method", "gmt")),
        "run": tiny.config(Path("nowhere")),
    }
    return TrialJob(number=number, point=point or POINT, **given | changes)


def suggested(search: StudySearch, trial_id: str) -> TrialJob:
    """The job that the searcher suggests."""
    suggestion = search.suggest(trial_id)
    assert isinstance(suggestion, dict)
    job: TrialJob = suggestion["job"]
    return job
