"""A group of workers that lives across 100 trials: does its memory grow, does a trial notice?

`python benchmarks/warm_group.py --out FOLDER` runs 100 short trials of the embedded world's math
domain in one group. The first point is given again as the 20th. Memory is what the workers alone
hold (USS), read every half second and assigned to the number of trials that had ended.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).parents[1]
AGAIN = 20


def config(storage: Path, trials: int) -> dict[str, Any]:
    """One domain, one worker; the same point as the first and the 20th."""
    first = {"mask_ratio": 0.4, "accumulation_interval": 2, "learning_rate": 3e-3}
    between = [
        {"mask_ratio": (n % 10) / 10, "accumulation_interval": 1 + n % 2, "learning_rate": 1e-3}
        for n in range(AGAIN - 2)
    ]
    return {
        "name": "warm",
        "storage": str(storage),
        "model": {"path": "mini:model", "dtype": "float32"},
        "resources": {"workers": 1, "concurrency": 1, "trial_group": "warm"},
        "training": {"examples": 64, "batch": {"mini_batch": 4}, "threads": 1},
        "evaluation": {"checks": 1},
        "search": {"trials": trials, "sampler": "random", "start": [first, *between, first]},
        "space": {
            "mask_ratio": {"low": 0.0, "high": 0.9, "step": 0.1},
            "accumulation_interval": [1, 2],
            "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        },
        "domains": {
            "math": {
                "data": {"path": "mini:math/train.jsonl", "max_length": 128},
                "benchmarks": [
                    {
                        "name": "exact_match",
                        "validation": "mini:math/validation.jsonl",
                        "test": "mini:math/test.jsonl",
                        "limit": 16,
                        "test_limit": 8,
                    }
                ],
            }
        },
    }


def worker_mib(pid: int) -> float | None:
    """Memory that the train workers below ``pid`` hold alone; None while there is none."""
    amounts = []
    try:
        for process in psutil.Process(pid).children(recursive=True):
            if "RayTrainWorker" in "".join(process.cmdline()[:1]):
                amounts.append(process.memory_full_info().uss / 2**20)
    except psutil.Error:
        return None
    return sum(amounts) if amounts else None


def run(trials: int, place: Path) -> dict[str, Any]:
    """The sweep in a process of its own, watched from here."""
    file = place / "sweep.yaml"
    file.write_text(yaml.safe_dump(config(place / "runs", trials)))
    log = (place / "log.txt").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeps", "run", str(file)],
        cwd=ROOT,
        stdout=log,
        stderr=log,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    memory: dict[int, list[float]] = {}
    while process.poll() is None:
        ended = (place / "log.txt").read_text().count(" finished in ")
        amount = worker_mib(process.pid)
        if amount is not None:
            memory.setdefault(ended, []).append(amount)
        time.sleep(0.5)
    log.close()
    if process.returncode:
        raise RuntimeError((place / "log.txt").read_text()[-3000:])
    return {"memory": memory, "curves": curves(place / "runs")}


def curves(runs: Path) -> dict[int, list[Any]]:
    """Every trial's loss at each step, by its number."""
    found = {}
    for events in runs.glob("warm/math/trials/*/events.jsonl"):
        lines = [json.loads(line) for line in events.read_text().splitlines()]
        losses = [line["metrics"].get("train/loss") for line in lines]
        found[int(events.parent.name.split("-")[0])] = losses
    return found


def main() -> None:
    """Print and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="warm-") as place:
        found = run(arguments.trials, Path(place))
    memory = {n: statistics.median(amounts) for n, amounts in sorted(found["memory"].items())}
    early = statistics.median(v for n, v in memory.items() if 5 <= n <= 15)
    late = statistics.median(v for n, v in memory.items() if n >= arguments.trials - 10)
    result = {
        "trials": arguments.trials,
        "mib_after_5_to_15_trials": round(early, 1),
        "mib_in_the_last_10_trials": round(late, 1),
        "growth": round(late / early - 1, 4),
        "first_equals_20th_bit_for_bit": found["curves"][0] == found["curves"][AGAIN - 1],
        "first_differs_from_2nd": found["curves"][0] != found["curves"][1],
        "memory": {str(n): round(v, 1) for n, v in memory.items()},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "warm_group.json").write_text(json.dumps(result, indent=1))
    print(json.dumps({key: value for key, value in result.items() if key != "memory"}))


if __name__ == "__main__":
    main()
