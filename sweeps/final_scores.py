"""The test items, read once, after every choice has been made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, final

from sweeps.config import SweepConfig
from sweeps.finetune.config import BenchmarkConfig
from sweeps.report.data import TrialRow, benchmark_entries

FILE = "test_scores.json"


@final
@dataclass(frozen=True)
class TestScores:
    """``entries["best" | "sft"]`` as `StudyData.test_results` wants them, and whose they are."""

    __test__ = False  # not a test class, whatever its name says to pytest

    keys: Mapping[str, str] = field(default_factory=dict)
    entries: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What an earlier session measured, or nothing."""
        path = folder / FILE
        return cls(**json.loads(path.read_text())) if path.exists() else cls()

    def write(self, folder: Path) -> None:
        """Keep it, atomically."""
        partial = folder / f"{FILE}.partial"
        partial.write_text(json.dumps({"keys": self.keys, "entries": self.entries}, indent=1))
        partial.replace(folder / FILE)


def score_on_test(
    config: SweepConfig, domain: str, folder: Path, chosen: Mapping[str, TrialRow | None]
) -> TestScores:
    """Score the chosen trials' models on the test items, unless that was done already.

    ``chosen``: "best" and "sft" to the trial that validation items chose. Runs as one Ray task
    with one worker's resources; models lie under ``folder/trials/<key>/model``.
    """
    keys = {role: row.key for role, row in chosen.items() if row is not None}
    before = TestScores.read(folder)
    if before.keys == keys:
        return before
    models = {key: str(folder / "trials" / key / "model") for key in keys.values()}
    by_key = _score_remotely(config, domain, models) if models else {}
    scores = TestScores(keys, {role: by_key[key] for role, key in keys.items()})
    scores.write(folder)
    return scores


def _score_remotely(
    config: SweepConfig, domain: str, models: dict[str, str]
) -> dict[str, dict[str, float]]:
    import ray

    resources = config.resources
    task = ray.remote(score_models).options(
        num_cpus=resources.cpus_per_worker,
        num_gpus=resources.gpus_per_worker,
    )
    benchmarks = [b.model_dump() for b in config.domains[domain].benchmarks]
    try:
        result: dict[str, dict[str, float]] = ray.get(task.remote(models, benchmarks))
    except ray.exceptions.RayTaskError as error:
        # Ray wraps the error in the task's traceback; a user's mistake is one sentence.
        if isinstance(error.cause, ValueError):
            raise error.cause from None
        raise
    return result


def score_models(
    models: dict[str, str], benchmarks: list[dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """Each model's test scores: key to ``{"<benchmark>/score": ..., ...}``."""
    import torch

    from sweeps.finetune.evaluation import evaluate_folder

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parsed = [BenchmarkConfig(**benchmark) for benchmark in benchmarks]
    scores: dict[str, dict[str, float]] = {}
    for key, model_folder in models.items():
        entries: dict[str, float] = {}
        for name, result in evaluate_folder(Path(model_folder), parsed, "test", device).items():
            entries |= benchmark_entries(name, result.score, result.standard_error, result.n)
        scores[key] = entries
    return scores
