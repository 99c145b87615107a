"""A polite kill of a driver: Ray, once started, has no say in how that ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Ray's handlers end a process at once, or abort it three seconds after the signal.
SCRIPT = """
import os, signal, time
from sweeps.storage.interrupts import interruptible, shielded
from sweeps.execution.cluster import connected

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


# The signal comes from outside, at any time while Ray starts.
STARTING = """
import os, signal, sys, threading, time
import ray
from sweeps.storage.interrupts import interruptible
from sweeps.execution.cluster import connected

def later():
    time.sleep(float(sys.argv[1]))
    os.kill(os.getpid(), int(sys.argv[2]))

threading.Thread(target=later, daemon=True).start()
try:
    with interruptible(), connected("local", {"num_cpus": 1, "include_dashboard": False}):
        time.sleep(60)
except KeyboardInterrupt:
    time.sleep(4)
    print("stopped", ray.is_initialized())
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_ray_starts_is_heard(root: Path, number: signal.Signals) -> None:
    for delay in (0.2, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0):
        done = subprocess.run(
            [sys.executable, "-c", STARTING, str(delay), str(int(number))],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.splitlines() == ["stopped False"], (delay, done.stderr)
        assert done.returncode == 0
