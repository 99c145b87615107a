"""A paper that was stopped in its second study, and what is typed then."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from sweeps.config.load import load_config
from sweeps.config.study_config import Kind
from sweeps.config.sweep_config import SweepConfig, resolve_paths
from sweeps.execution.paper import study_of
from sweeps.report.trial_row import TrialRow
from sweeps.search.trial_records import Records
from tests.sweeps.on_ray.mini_sweeps import tree

DROP = {"paper": ["search", "drop"], "seeds": 2, "drop_rates": [0.5]}
SEARCH = {"trials": 2, "sampler": "random"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stopped_paper_goes_on_where_it_was(tmp_path: Path, root: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(yaml.safe_dump(tree(tmp_path / "runs", study=DROP, search=SEARCH)))
    config, folder = resolve_paths(load_config(sweep)), tmp_path / "runs" / "small"
    with started(root, "paper", sweep) as first:
        assert first.stdout is not None
        read_until("== drop", first)
        read_until(r"trial +0 .* finished", first)
        stopped = call(root, "stop", sweep)
        said = first.stdout.read()
        assert first.wait(60) == 130, said
    assert "Finished trials are kept" in stopped
    assert f"sweeps resume {folder}\n" in stopped
    before = {kind: finished(config, kind) for kind in config.study.paper}
    assert len(before["search"]) == 2
    assert 1 <= len(before["drop"]) < 8

    said = call(root, "resume", folder)
    assert "math: all 2 trials are already done" in said
    assert not re.search(r"trial +0 .* finished", said)
    after = {kind: finished(config, kind) for kind in config.study.paper}
    assert after["search"] == before["search"]
    assert after["drop"].items() >= before["drop"].items()
    assert len(after["drop"]) == 2 + 3 * 2
    assert (folder / "paper" / "report.html").is_file()


def finished(config: SweepConfig, kind: Kind) -> dict[str, TrialRow]:
    """The finished trials of one study on record, by key; none stands there twice."""
    rows = Records(study_of(config, kind)).rows("math")
    rows = tuple(row for row in rows if row.state == "finished")
    assert len({row.key for row in rows}) == len(rows)
    return {row.key: row for row in rows}


@contextmanager
def started(root: Path, command: str, sweep: Path) -> Iterator[subprocess.Popen[str]]:
    """A command of its own session, as in a terminal."""
    words = [sys.executable, "-m", "sweeps", command, str(sweep)]
    with subprocess.Popen(
        words, cwd=root, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def read_until(pattern: str, process: subprocess.Popen[str]) -> None:
    """Read the process's lines up to one that shows the pattern."""
    assert process.stdout is not None
    while not re.search(pattern, line := process.stdout.readline()):
        assert line or process.poll() is None


def call(root: Path, command: str, sweep: Path) -> str:
    """What a command prints."""
    words = [sys.executable, "-m", "sweeps", command, str(sweep)]
    return subprocess.run(words, cwd=root, capture_output=True, text=True, check=True).stdout
