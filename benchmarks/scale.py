"""What orchestrating many trials costs: trials that do nothing, on 16 logical nodes.

`python benchmarks/scale.py --out FOLDER` starts Ray's in-process cluster (a head without CPUs and
16 nodes of one CPU, all on this machine), an MLflow server, and one search whose trials tell of a
few steps and end at once, at most 4 at a time. All but the training is the real thing: Tune,
Optuna on sqlite with its copy, worker groups, outboxes, MLflow over HTTP. Times are wall seconds.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import mlflow_server
import psutil

if TYPE_CHECKING:
    from sweeps.execution.job_messages import TrialJob
    from sweeps.finetune.reporter import Check, RunResult

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
STEPS = 20
MEMORY: list[tuple[float, float]] = []
SHARES: dict[str, tuple[int, int]] = {}
CALLS: dict[str, list[float]] = {}


def trivial(job: TrialJob, report: Callable[[Check], bool], memory: dict[str, Any]) -> RunResult:
    """A trial without training: events of some steps, and a score that follows from its point."""
    from sweeps.finetune.reporter import RunResult
    from sweeps.tracking.event_log import Outbox

    score = 1.0 - abs(job.run.method.mask_ratio - 0.4)
    with Outbox(Path(job.folder) / "events.jsonl") as outbox:
        for step in range(1, STEPS + 1):
            metrics = {"train/loss": 1.0 / step, "train/learning_rate": 1e-3, "gmt/kept": 0.6}
            outbox.append("step", step=step, metrics=metrics)
    return RunResult("finished", STEPS, STEPS, score, {"eval/score": score})


def main() -> None:
    """Measure once, and write the trials' times and a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument(
        "--asks", type=int, nargs="*", help="only time Optuna after so many trials"
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.asks:
        found = {trials: ask_milliseconds(trials) for trials in arguments.asks}
        print(json.dumps(found))
        if arguments.out is not None:
            (arguments.out / "asks.json").write_text(json.dumps(found) + "\n")
        return
    with tempfile.TemporaryDirectory(prefix="scale-") as place:
        folder = Path(place)
        os.environ["HOME"] = place  # the live database of a cluster's driver lies there
        os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
        with mlflow_server.serving(folder) as uri, ray_cluster(arguments.nodes) as address:
            os.environ["RAY_ADDRESS"] = address
            ended, started = measure(folder, uri, arguments.trials, arguments.at_once)
    summary = summarize(ended, started)
    print(json.dumps(summary, indent=1))
    if arguments.out is not None:
        write(arguments.out, ended, started, summary)


def ask_milliseconds(trials: int, repeats: int = 9) -> float:
    """Median milliseconds until a study of so many finished trials has suggested another one."""
    import optuna

    from sweeps.config.load import load_config
    from sweeps.search.samplers import DistinctSampler

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = load_config(ROOT / "sweeps" / "configs" / "mini.yaml")
    space, choose = config.space_of("math"), random.Random(0)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    space.suggest(trial)
    ranges = trial.distributions
    drawn = [
        {
            "mask_ratio": choose.randrange(10) / 10,
            "accumulation_interval": choose.choice([1, 2, 4]),
            "learning_rate": choose.uniform(3e-4, 5e-3),
        }
        for _ in range(trials)
    ]
    full = optuna.create_study(direction="maximize")
    full.sampler = DistinctSampler(full, space, config.search, 0)
    full.add_trials(
        [
            optuna.trial.create_trial(params=point, distributions=ranges, value=choose.random())
            for point in drawn
        ]
    )
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        space.suggest(full.ask())
        seconds.append(time.perf_counter() - began)
    return round(1000 * statistics.median(seconds), 1)


@contextmanager
def ray_cluster(nodes: int) -> Iterator[str]:
    """A head and ``nodes`` logical nodes of one CPU; yields the address."""
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 * 2**20}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": True, **small},
    )
    try:
        for number in range(nodes):
            cluster.add_node(wait=number == nodes - 1, num_cpus=1, **small)
        cluster.wait_for_nodes(timeout=300)
        yield cluster.address
    finally:
        cluster.shutdown()


def measure(folder: Path, uri: str, trials: int, at_once: int) -> tuple[list[float], float]:
    """Run the search; returns when each trial had ended (sorted) and when the first was asked for,
    in Unix seconds."""
    import optuna

    from sweeps.config.load import load_tree, parse_config
    from sweeps.execution import sweep as study
    from sweeps.execution.optuna_searcher import StudySearch
    from sweeps.execution.test_scoring import TestScores
    from sweeps.storage.address import sqlite_address
    from sweeps.tracking.mlflow_tracker import MlflowTracker

    for owner, name in (
        (StudySearch, "suggest"),
        (StudySearch, "on_trial_complete"),
        (MlflowTracker, "begin_trial"),
        (MlflowTracker, "flush"),
        (MlflowTracker, "end_trial"),
    ):
        timed(owner, name, trials // 2 if name == "on_trial_complete" else math.inf)
    tree = load_tree(ROOT / "sweeps" / "configs" / "mini.yaml", [f"storage={folder}/runs"])
    tree["domains"] = {"math": tree["domains"]["math"]}
    tree["tracking"] = {"uri": uri}
    tree["resources"]["concurrency"] = at_once
    tree["search"] |= {"trials": trials, "scheduler": {"name": "none"}, "start": []}
    with (
        patch("sweeps.execution.tuner.run_job", trivial),
        patch(
            "sweeps.execution.study_session.score_on_test",
            lambda place, *_: TestScores.read(place),
        ),
    ):
        study.run(parse_config(tree))
    storage = optuna.storages.RDBStorage(sqlite_address(Path(folder, "runs/mini/optuna.db")))
    found = optuna.load_study(study_name="mini/math", storage=storage).get_trials(deepcopy=False)
    ended = [trial.datetime_complete for trial in found]
    began = min(trial.datetime_start for trial in found if trial.datetime_start)
    return sorted(moment.timestamp() for moment in ended if moment), began.timestamp()


def shares() -> dict[str, tuple[int, int]]:
    """The processes of this session by name: how many, and their MiB, shared pages shared out."""
    found: dict[str, tuple[int, int]] = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            name = process.cmdline()[0].partition(".")[0].rpartition("/")[2]
            number, total = found.get(name, (0, 0))
            found[name] = number + 1, total + process.memory_full_info().pss // 2**20
    return found


def timed(owner: type, name: str, half: float = math.inf) -> None:
    """Keep the seconds of every call, and after each the driver's resident memory; that of all
    processes at the call of number ``half``."""
    inner, calls = getattr(owner, name), CALLS.setdefault(f"{owner.__name__}.{name}", [])

    def outer(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return inner(*arguments, **options)
        finally:
            calls.append(time.perf_counter() - began)
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            MEMORY.append((time.time(), pages * os.sysconf("SC_PAGE_SIZE") / 2**20))
            if len(calls) == half:
                SHARES.update(shares())

    setattr(owner, name, outer)


def summarize(ended: list[float], started: float) -> dict[str, Any]:
    """The times of a trial in windows of 50, and what the parts cost at the first and the last."""
    first = ended[0]  # the groups' start is before it
    windows = {}
    for low in range(0, len(ended) - 1, 50):
        high = min(low + 50, len(ended) - 1)
        windows[f"{low + 1}-{high + 1}"] = round((ended[high] - ended[low]) / (high - low), 3)
    at_50, at_end = ended[min(50, len(ended) - 1)] - first, ended[-1] - first
    parts = {}
    for name, calls in CALLS.items():
        # A search asks again and again while nothing is free; only what made a trial counts.
        quarter = max(1, len(calls) // 4)
        parts[name] = {
            "calls": len(calls),
            "first_quarter_ms": round(1000 * statistics.median(calls[:quarter]), 1),
            "last_quarter_ms": round(1000 * statistics.median(calls[-quarter:]), 1),
            "longest_ms": round(1000 * max(calls), 1),
            "total_s": round(sum(calls), 2),
        }
    return {
        "trials": len(ended),
        "seconds_to_first_end": round(first - started, 1),
        "seconds_for_50": round(at_50, 1),
        "seconds_for_all": round(at_end, 1),
        "growth_of_time": round(at_end / at_50, 2),
        "growth_of_trials": round((len(ended) - 1) / min(50, len(ended) - 1), 2),
        "seconds_per_trial_by_window": windows,
        "driver_mib_at_first_end": round(memory_at(first)),
        "driver_mib_at_last_end": round(memory_at(ended[-1])),
        "processes": SHARES,
        "parts": parts,
    }


def memory_at(moment: float) -> float:
    """The driver's resident MiB at the last look before ``moment``."""
    return max((look for look in MEMORY if look[0] <= moment), default=(0.0, 0.0))[1]


def write(out: Path, ended: list[float], started: float, summary: dict[str, Any]) -> None:
    """``scale.json`` and ``trials.csv``: the end of each trial in seconds since the first ask."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "scale.json").write_text(json.dumps(summary, indent=1) + "\n")
    with (out / "trials.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ended", "seconds", "driver_mib"])
        for number, moment in enumerate(ended, start=1):
            rows.writerow([number, round(moment - started, 3), round(memory_at(moment), 1)])


if __name__ == "__main__":
    main()
