"""On a real Ray: a search goes on in another space, with several seeds for each point."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.config.load import parse_config
from sweeps.execution.domain_result import DomainResult
from sweeps.execution.sweep import run
from tests.sweeps.memory_tracker import MemoryTracker
from tests.sweeps.on_ray.mini_sweeps import Tree, benchmark, data, tree

pytestmark = pytest.mark.slow


def driven(storage: Path, trials: int, ratios: list[float], seen: MemoryTracker) -> DomainResult:
    domains = {
        "math": {"data": data(), "benchmarks": [benchmark(metric="bits_per_byte", limit=8)]}
    }
    space: Tree = {"mask_ratio": ratios, "accumulation_interval": [1, 2], "learning_rate": 1e-3}
    search = {"trials": trials, "sampler": "tpe", "replicates": 2, "fresh_seeds": 2}
    training = {"examples": 32, "batch": {"mini_batch": 4}, "threads": 1}
    changes = {"space": space, "search": search, "training": training, "domains": domains}
    return run(parse_config(tree(storage, **changes)), tracker=seen).domains["math"]


def test_a_space_that_changes_between_two_runs(tmp_path: Path) -> None:
    first, second = MemoryTracker(), MemoryTracker()
    before = driven(tmp_path, 2, [0.0, 0.8], first)
    assert [row.state for row in before.rows] == ["finished"] * 6
    after = driven(tmp_path, 3, [0.0, 0.2, 0.4], second)
    trained = second.store["small/math"].trials
    old = {row.key: row for row in before.rows}
    assert not trained.keys() & old.keys()  # none is run again
    rows = {row.key: row for row in after.rows}
    for key, row in old.items():
        assert rows[key].score == row.score
        assert (rows[key].origin != "") == (row.mask_ratio == 0.8)
    own = [row for row in after.rows if not row.origin and not row.stage]
    assert len(own) == 3
    assert all(len(row.scores) == 2 and row.state == "finished" for row in own)
    assert after.best == max(own, key=lambda row: row.score or 0.0)
    fresh = [row for row in after.rows if row.stage == "fresh" and row.same_point(after.best)]
    assert len(fresh) == 2
    assert "over 2 fresh seeds" in after.report.html.read_text()
