"""On a real Ray: no point is trained twice, and a search killed with -9 goes on as a whole one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.config.load import parse_config
from sweeps.execution.sweep import run
from sweeps.report.trial_row import TrialRow
from tests.sweeps.memory_tracker import MemoryTracker
from tests.sweeps.on_ray.mini_sweeps import Tree, benchmark, data, tree

pytestmark = pytest.mark.slow


def sweep(storage: Path, sampler: str, trials: int, **changes: object) -> Tree:
    """Trials of a second, whose scores tell them apart."""
    domains = {
        "math": {"data": data(), "benchmarks": [benchmark(metric="bits_per_byte", limit=8)]}
    }
    search = {"trials": trials, "sampler": sampler, "startup_trials": 3}
    training = {"examples": 32, "batch": {"mini_batch": 4}, "threads": 1}
    return tree(storage, search=search, training=training, domains=domains, **changes)


def rows(asked: Tree) -> tuple[TrialRow, ...]:
    return run(parse_config(asked), tracker=MemoryTracker()).domains["math"].rows


def test_sixteen_trials_of_eight_points_train_eight(tmp_path: Path) -> None:
    ratios = {"mask_ratio": [0.0, 0.2, 0.4, 0.6], "accumulation_interval": [1, 2]}
    resources = {"workers": 1, "concurrency": 2}
    space = {**ratios, "learning_rate": 1e-3}
    asked = sweep(tmp_path, "tpe", 16, space=space, resources=resources)
    ended = rows(asked)
    assert [row.state for row in ended] == ["finished"] * 8
    assert len({(row.mask_ratio, row.accumulation_interval) for row in ended}) == 8
    assert len(list((tmp_path / "small" / "math" / "trials").iterdir())) == 8
    assert rows(asked) == ended


def killed(asked: Tree, file: Path, finished: int) -> None:
    """A session that dies by -9 after so many trials have finished."""
    file.write_text(json.dumps(asked))  # JSON is YAML
    command = [sys.executable, "-m", "sweeps", "run", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            finished -= "finished in" in line
            if finished <= 0:
                break
        driver.kill()


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_search_that_was_killed_draws_the_points_of_the_whole_one(
    tmp_path: Path, sampler: str
) -> None:
    whole = rows(sweep(tmp_path / "whole", sampler, 6))
    asked = sweep(tmp_path / "killed", sampler, 6)
    killed(asked, tmp_path / "sweep.yaml", finished=4)
    again = rows(asked)
    assert [(row.key, row.score) for row in again] == [(row.key, row.score) for row in whole]
