"""A process that drives a sweep, to be stopped or killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DRIVE = """
import sys, time
from pathlib import Path
from sweeps.storage.run_lock import acquire_run_lock
try:
    with acquire_run_lock(Path(sys.argv[1])):
        print("driving", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""


@contextmanager
def another_driver(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that drives the sweep in ``folder``."""
    command = [sys.executable, "-c", DRIVE, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "driving\n"
        yield driver
        driver.kill()
