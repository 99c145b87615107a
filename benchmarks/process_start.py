"""From process start to the first update of a run: CPU seconds, wall seconds, modules.

    python benchmarks/process_start.py --out benchmarks/records/DATE_name
    python benchmarks/process_start.py --out FOLDER --against OTHER_CHECKOUT
    python benchmarks/process_start.py --out FOLDER --uncompiled

Each round starts one new process per checkout, in turns; with ``--uncompiled`` also one that finds
no bytecode. The run is a trial of the demo (sweeps/configs/mini.yaml, domain math), without Ray:
what a worker does for its first trial.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
CHILD = """
import os, sys, time
from pathlib import Path
from sweeps.config.sweep_config import resolve_paths
from sweeps.config.load import load_config
config = resolve_paths(load_config("sweeps/configs/mini.yaml"))
point = {"mask_ratio": 0.3, "accumulation_interval": 1, "learning_rate": 1e-3}
run = config.trial("math", point)
from sweeps.finetune.loop import Cache, finetune
class Started(Exception):
    pass
class First:
    def step(self, *_):
        raise Started
def start(name):
    try:
        finetune(run, Path(sys.argv[1], name), First(), cache)
    except Started:
        return time.process_time()
cache = Cache()
first = start("first")
with open("/proc/uptime") as up, open("/proc/self/stat") as stat:
    began = int(stat.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    wall = float(up.read().split()[0]) - began
print("START", first, wall, len(sys.modules), start("second") - first)
"""
COLUMNS = ("cpu_seconds", "wall_seconds", "modules", "cpu_seconds_of_the_next_trial")


def start(checkout: Path, *, compiled: bool = True) -> tuple[float, ...]:
    """What COLUMNS says, of one new process."""
    with tempfile.TemporaryDirectory() as folder:
        none = {"PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", CHILD, folder],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout), **({} if compiled else none)},
            capture_output=True,
            text=True,
            check=True,
        )
    words = next(line for line in done.stdout.splitlines() if line.startswith("START")).split()
    return tuple(float(word) for word in words[1:])


def main() -> None:
    """Measure in turns, print the medians and write every start."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--uncompiled", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    checkouts = {"this": HERE} | ({"other": given.against.resolve()} if given.against else {})
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in checkouts}
    if given.uncompiled:
        found["uncompiled"] = []
    for checkout in checkouts.values():
        start(checkout)  # compiles, and fills the page cache
    for _ in range(given.rounds):
        for name, checkout in checkouts.items():
            found[name].append(start(checkout))
        if given.uncompiled:
            found["uncompiled"].append(start(HERE, compiled=False))
    given.out.mkdir(parents=True, exist_ok=True)
    with (given.out / "process_start.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["checkout", *COLUMNS])
        writer.writerows([name, *each] for name, starts in found.items() for each in starts)
    for name, starts in found.items():
        medians = (statistics.median(each) for each in zip(*starts, strict=True))
        print(name, *(f"{key} {value:.2f}" for key, value in zip(COLUMNS, medians, strict=True)))


if __name__ == "__main__":
    main()
