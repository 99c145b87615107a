"""Fixed designs through the whole chain, on a real Ray: stages, growth, drops, efficiency."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeps.config.load import parse_config
from sweeps.execution import paper
from sweeps.execution.sweep import run
from tests.sweeps.memory_tracker import MemoryTracker
from tests.sweeps.on_ray.mini_sweeps import Tree, tree

pytestmark = pytest.mark.slow
STUDY = {
    "kind": "sensitivity",
    "margin": 0.1,
    "seeds": 2,
    "fresh_seeds": 2,
    "ratios": [0.0, 0.5],
    "nuisance": {"accumulation_interval": 1, "learning_rate": 1e-3},
}


def sweep(storage: Path, **changes: object) -> Tree:
    return tree(storage, study=STUDY | changes)


def test_a_sensitivity_study_runs_grows_and_never_runs_a_trial_twice(tmp_path: Path) -> None:
    tracker = MemoryTracker()
    first = run(parse_config(sweep(tmp_path)), tracker=tracker).domains["math"]
    assert len(first.rows) == 4 + 4
    assert {row.state for row in first.rows} == {"finished"}
    assert {row.stage for row in first.rows} == {"replicate", "fresh"}
    fresh = {row.key for row in first.rows if row.stage == "fresh"}
    assert set(first.test_scores.entries) == fresh
    assert set(tracker.store["small/math"].finals) >= {"seeds/m0.50/mean", "seeds/m0.50/low"}
    info = tracker.store["small/math"].info
    assert info.trial_kind == "replicate"
    grown = run(parse_config(sweep(tmp_path, seeds=3)), tracker=MemoryTracker()).domains["math"]
    assert len(grown.rows) == 6 + 4
    before = {row.key: row.score for row in first.rows}
    assert {row.key: row.score for row in grown.rows}.items() >= before.items()
    results = json.loads((grown.report.html.parent / "results.json").read_text())
    assert [arm["seeds"] for arm in results["arms"]] == [[0, 1, 2], [0, 1, 2]]


def test_the_paper_runs_drops_and_efficiency_and_is_complete_when_run_again(
    tmp_path: Path,
) -> None:
    changes: Tree = {
        "paper": ["drop", "efficiency"],
        "drop_rates": [0.5],
        "mask_ratio": 0.5,
        "rounds": 3,
    }
    config = parse_config(sweep(tmp_path, **changes))
    tracker = MemoryTracker()
    html = paper.run(config, tracker=tracker).html.read_text()
    assert html.count("<svg") == 2
    assert "FLOPs of an update" in html
    drops = tracker.store["small-drop/math"].trials
    assert len(drops) == 2 + 3 * 2
    again = MemoryTracker()
    assert paper.run(config, tracker=again).html.read_text() == html
    assert not again.store["small-drop/math"].trials
