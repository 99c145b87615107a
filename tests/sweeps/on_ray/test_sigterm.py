"""A polite kill of a driver: Ray, once started, has no say in how that ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Ray's handlers end a process at once, or abort it three seconds after the signal.
SCRIPT = """
import os, signal, time
from sweeps.interrupts import interruptible, shielded
from sweeps.workers.cluster import connected

with interruptible(), connected("local", {"num_cpus": 1, "include_dashboard": False}):
    try:
        with shielded():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
            print("a write is whole")
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(5)
        print("all was saved")
"""


@pytest.mark.timeout(180)
def test_a_driver_has_the_time_it_needs_after_sigterm(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["a write is whole", "all was saved"], done.stderr
    assert done.returncode == 0
