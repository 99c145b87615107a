"""A sweep whose domain is scored on a task of the harness, by two workers, test items included."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.config.load import parse_config
from sweeps.execution.sweep import run
from sweeps.execution.test_scoring import TestScores
from tests.evaluators.harness_tasks import DOCUMENTS, TASKS, write_task
from tests.sweeps.memory_tracker import MemoryTracker
from tests.sweeps.on_ray.mini_sweeps import data, tree

pytestmark = pytest.mark.slow


def test_a_sweep_is_scored_on_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    rows = [{**DOCUMENTS["arc"][n % 7], "question": f"{n}+1?"} for n in range(60)]
    monkeypatch.setitem(DOCUMENTS, "many", rows)
    monkeypatch.setitem(TASKS, "many", ("arc/arc_easy.yaml", {}))
    task = f"lm_eval:{write_task('many', tmp_path)}"
    domains = {"science": {"data": data(), "benchmarks": [{"name": task, "limit": 8}]}}
    changes = {"domains": domains, "search": {"trials": 2, "sampler": "random"}}
    config = parse_config(tree(tmp_path / "runs", resources={"workers": 2}, **changes))
    result = run(config, tracker=MemoryTracker()).domains["science"]
    assert [row.state for row in result.rows] == ["finished"] * 2
    (file,) = (tmp_path / "runs").rglob("test_scores.json")
    (items,) = TestScores.read(file.parent).items["best"].values()
    ids = {item[0] for item in items}
    assert len(ids) == len(items) and 30 < len(ids) < 60  # all but the held-out fifth
