"""Ctrl-C in the middle of a sweep, and the same command again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.sweeps.on_ray.mini_sweeps import tree

DEADLINE_SECONDS = 10


@pytest.mark.timeout(420)
def test_ctrl_c_leaves_nothing_behind_and_the_same_command_goes_on(
    tmp_path: Path, root: Path
) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(yaml.safe_dump(tree(tmp_path / "runs")))
    command = [sys.executable, "-m", "sweeps", "run", str(sweep)]
    # A session of its own stands for a terminal: Ctrl-C reaches every process of it.
    first = subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert first.stdout is not None
    while not re.search(r"trial +0 ", first.stdout.readline()):
        assert first.poll() is None
    pids = _descendants(first.pid)
    assert len(pids) > 3
    interrupted = time.monotonic()
    os.killpg(first.pid, signal.SIGINT)
    with first.stdout:
        output = first.stdout.read()
    assert first.wait(DEADLINE_SECONDS) == 130
    while alive := [pid for pid in pids if _is_alive(pid)]:
        assert time.monotonic() - interrupted < DEADLINE_SECONDS, alive
        time.sleep(0.1)
    assert "To continue:" in output
    assert _states(tmp_path)["running"] == 0

    second = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert not re.search(r"trial +0 ", second.stdout)  # what was finished is not run again
    assert _states(tmp_path) == {"finished": 4}  # three trials and their parent


def _descendants(pid: int) -> set[int]:
    listing = subprocess.run(
        ["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    children: dict[int, list[int]] = {}
    for line in listing.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        new = set(children.get(waiting.pop(), ())) - found
        found |= new
        waiting += new
    return found


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def _states(folder: Path) -> Counter[str]:
    """How many MLflow runs are in each of our states."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments)
    return Counter(run.data.tags["gmt.state"] for run in runs)
