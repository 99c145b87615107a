"""On a real Ray: queue, fork and stop a running search, whose driver is killed with -9."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file

from sweeps import open_results
from sweeps.config.load import parse_config
from sweeps.config.sweep_config import paths_for, resolve_paths
from sweeps.execution.single_run import load_single_run, run_single
from sweeps.execution.sweep import run
from sweeps.finetune.checkpoint import saved
from sweeps.report.trial_row import TrialRow
from sweeps.search.trial_records import Records
from sweeps.storage.mailbox import Mailbox
from tests.sweeps.finetune.tiny import assert_equal
from tests.sweeps.memory_tracker import MemoryTracker
from tests.sweeps.on_ray.mini_sweeps import Tree, benchmark, data, tree

pytestmark = pytest.mark.slow

QUEUED = {"mask_ratio": 0.4, "accumulation_interval": 2, "learning_rate": 0.003}
CHANGES = {"learning_rate": 0.0005, "weight_decay": 0.1, "mask_ratio": 0.6}


def sweep(storage: Path) -> Tree:
    scored = benchmark(metric="bits_per_byte", limit=8)
    return tree(
        storage,
        search={"trials": 2, "sampler": "random"},
        training={
            "examples": 256,
            "batch": {"mini_batch": 4},
            "threads": 1,
            "checkpoint_updates": 4,
        },
        evaluation={"checks": 8, "check_limit": 4},
        space={
            "mask_ratio": [0.2, 0.4],
            "accumulation_interval": [2],
            "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        },
        domains={"math": {"data": data(), "benchmarks": [scored]}},
    )


@contextmanager
def driven(file: Path) -> Iterator[None]:
    """A process runs the sweep during the block, which ends it with -9."""
    command = [sys.executable, "-m", "sweeps", "run", str(file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as driver:
        try:
            yield
            assert driver.poll() is None, "the sweep ended before it was killed"
        finally:
            driver.kill()


def seen(asked: Tree, wanted: Callable[[TrialRow], bool]) -> TrialRow:
    """The first trial that is wanted, and has a checkpoint."""
    config = resolve_paths(parse_config(asked))
    place, deadline = paths_for(config), time.monotonic() + 120
    while time.monotonic() < deadline:
        rows = Records(config).rows("math") if place.created_marker().is_file() else ()
        for row in rows:
            if wanted(row) and saved(place.trial("math", row.key)):
                return row
        time.sleep(0.05)
    raise AssertionError("no such trial runs")


def test_what_was_asked_for_is_run_once_whatever_is_killed(tmp_path: Path) -> None:
    asked, file = sweep(tmp_path), tmp_path / "sweep.yaml"
    file.write_text(json.dumps(asked))  # JSON is YAML
    config = resolve_paths(parse_config(asked))
    with driven(file):
        parent = seen(asked, lambda row: row.number == 0)
        results = open_results(tmp_path / "small")
        assert "the running sweep starts it" in results.fork("math", 0, CHANGES)
        assert "the running sweep starts it" in results.queue("math", QUEUED)
        results.stop("math", 0)
    with driven(file):
        fork = seen(asked, lambda row: row.parent == 0)
    tracker = MemoryTracker()
    rows = {row.number: row for row in run(config, tracker=tracker).domains["math"].rows}
    assert len(rows) == len({row.key for row in rows.values()}) == 4
    assert (rows[0].state, rows[0].key) == ("stopped_by_user", parent.key)
    assert rows[0].step < rows[0].steps and rows[0].score is not None
    others = [row for number, row in rows.items() if number]
    assert [row.state for row in others] == ["finished"] * 3
    assert sum(row.queued for row in others) == 1
    (forked,) = [row for row in others if row.parent == 0]
    assert forked.key == fork.key
    assert Mailbox(paths_for(config)).waiting() == {}
    info = tracker.store["small/math"].trials[forked.key].info
    assert (info.parent_key, info.parent_step) == (parent.key, forked.parent_step)
    again = run(config, tracker=MemoryTracker()).domains["math"].rows
    assert again == tuple(rows.values())
    _equals_a_run_by_hand(paths_for(config).trial("math", forked.key), forked, tmp_path / "alone")


def _equals_a_run_by_hand(folder: Path, forked: TrialRow, alone: Path) -> None:
    """`finetune` with the fork's file resumes from the same checkpoint: equal bit for bit."""
    single = load_single_run(folder / "run.yaml", [f"folder={alone}", "keep=model"])
    assert single.weight_decay == CHANGES["weight_decay"]
    result = run_single(single)
    assert (result.score, result.steps) == (forked.score, forked.steps)
    assert_equal(
        load_file(folder / "model" / "model.safetensors"),
        load_file(alone / "model" / "model.safetensors"),
    )
