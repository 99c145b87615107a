"""A search on a real Ray: trials stopped early by Optuna's pruner, methods, replicates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from sweeps.config.load import parse_config
from sweeps.execution.sweep import run
from tests.sweeps.memory_tracker import MemoryTracker
from tests.sweeps.on_ray.mini_sweeps import Tree, benchmark, data, tree

pytestmark = pytest.mark.slow


def sweep(storage: Path, **search: object) -> Tree:
    space = {
        "method": ["sft", "gmt", "hft"],
        "mask_ratio": [0.2, 0.4],
        "accumulation_interval": [1, 2],
        "learning_rate": {"low": 1e-6, "high": 3e-3, "log": True},
    }
    # Bits per byte tell trials apart that have learnt next to nothing yet.
    domains = {"math": {"data": data(), "benchmarks": [benchmark(metric="bits_per_byte")]}}
    changes = {"space": space, "domains": domains, "evaluation": {"checks": 4, "check_limit": 8}}
    return tree(storage, search={"sampler": "random", **search}, **changes)


def test_a_search_stops_repeats_and_reports(tmp_path: Path) -> None:
    scheduler = {"name": "asha", "reduction_factor": 2}
    search: Tree = {"trials": 6, "scheduler": scheduler, "fresh_seeds": {"best": 1, "seeds": 2}}
    tracker = MemoryTracker()
    result = run(parse_config(sweep(tmp_path, **search)), tracker=tracker).domains["math"]
    own = [row for row in result.rows if not row.stage]
    stopped = [row for row in own if row.state == "stopped_early"]
    assert len(own) == 6
    assert stopped
    assert all(row.step < row.steps for row in stopped)
    assert result.best in own
    again = [row for row in result.rows if row.stage == "fresh"]
    assert [row.state for row in again] == ["finished"] * 2
    assert result.best is not None
    assert all(row.same_point(result.best) and row.seed != result.best.seed for row in again)
    states = {key: trial.state for key, trial in tracker.store["small/math"].trials.items()}
    assert states == {row.key: row.state for row in result.rows}
    html = result.report.html.read_text()
    assert "The best points with other seeds" in html
    later = MemoryTracker()
    config = parse_config(sweep(tmp_path, **search))
    assert run(config, tracker=later).domains["math"].rows == result.rows
    assert not later.store["small/math"].trials


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    objectives = ["score", "kept_fraction", "seconds"]
    search: Tree = {"trials": 4, "startup_trials": 2, "objectives": objectives}
    search["sampler"] = "nsga2"
    result = run(parse_config(sweep(tmp_path, **search)), tracker=MemoryTracker()).domains["math"]
    assert [row.state for row in result.rows] == ["finished"] * 4
    for row in result.rows:
        kept = row.metrics["objective/kept_fraction"]
        assert kept == 1.0 if row.method == "sft" else 0.0 < kept < 1.0
        assert row.metrics["objective/seconds"] > 0
    html = result.report.html.read_text()
    assert "Score and kept fraction" in html
    assert "Score and seconds" in html


def test_domains_side_by_side_equal_domains_in_turn(tmp_path: Path) -> None:
    domains = {
        name: {"data": data(), "benchmarks": [benchmark(metric="bits_per_byte")]}
        for name in ("math", "sums")
    }
    found = {}
    for way in ("in_turn", "side_by_side"):
        resources = {"workers": 1, "concurrency": 2, "domains": way}
        config = tree(tmp_path / way, domains=domains, resources=resources)
        tracker = MemoryTracker()
        results = run(parse_config(config), tracker=tracker).domains
        found[way] = {
            name: [(row.key, row.score) for row in result.rows] for name, result in results.items()
        }
        assert {record.state for record in tracker.store.values()} == {"finished"}
        began = {
            name: min(t.datetime_start for t in started(tmp_path / way, name)) for name in domains
        }
        ended = max(t.datetime_complete for t in started(tmp_path / way, "math"))
        assert (began["sums"] < ended) == (way == "side_by_side")
    assert found["in_turn"] == found["side_by_side"]


def started(storage: Path, domain: str) -> list[Any]:
    """The trials of one study as Optuna has them."""
    url = f"sqlite:///{storage / 'small' / 'optuna.db'}"
    return optuna.load_study(study_name=f"small/{domain}", storage=url).get_trials()
