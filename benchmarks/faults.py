"""What a sweep loses when something is killed: nothing. Each fault is done to a real sweep of the
embedded world with two workers per trial and a real MLflow server, and the same command is given
again. `python benchmarks/faults.py --repeats 5 --out FOLDER` prints and keeps the table.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

import mlflow_server
import yaml

from sweeps.execution.cluster import free_port
from sweeps.storage.sqlite_address import sqlite_address

ROOT = Path(__file__).parents[1]
START_SECONDS, END_SECONDS, GONE_SECONDS = 300.0, 600.0, 180.0
OUTAGE_SECONDS = 120.0


@final
@dataclass(frozen=True)
class Verdict:
    """What was found after the last command: of a sound sweep every number is 0.

    ``different_scores``: trials whose score is not, bit for bit, that of the sweep nobody
    disturbed.
    """

    fault: str
    seed: int
    seconds: float
    trials: int
    lost: int
    run_twice: int
    different_scores: int
    runs_duplicated: int
    runs_stuck: int
    steps_doubled: int

    def sound(self) -> bool:
        """Whether nothing was lost or doubled."""
        return not any(getattr(self, each.name) for each in fields(self)[4:])


def config(storage: Path, tracking: str) -> dict[str, Any]:
    """Eight trials in two stages of a fixed design: every score is known beforehand."""
    return {
        "name": "faults",
        "storage": str(storage),
        "tracking": {"uri": tracking},
        "model": {"path": "mini:model", "dtype": "float32"},
        "resources": {"workers": 2, "concurrency": 1},
        "training": {
            "examples": 128,
            "batch": {"mini_batch": 2},
            "threads": 1,
            "checkpoint_updates": 4,
        },
        "evaluation": {"checks": 2, "check_limit": 8},
        "study": {
            "kind": "sensitivity",
            "margin": 0.1,
            "seeds": 2,
            "fresh_seeds": 2,
            "ratios": [0.0, 0.5],
            "nuisance": {"accumulation_interval": 1, "learning_rate": 1e-3},
        },
        "space": {
            "mask_ratio": [0.0, 0.5],
            "accumulation_interval": [1],
            "learning_rate": [1e-3],
        },
        "domains": {
            "math": {
                "data": {"path": "mini:math/train.jsonl", "max_length": 128},
                "benchmarks": [
                    {
                        "name": "exact_match",
                        "metric": "bits_per_byte",
                        "validation": "mini:math/validation.jsonl",
                        "test": "mini:math/test.jsonl",
                        "limit": 16,
                        "test_limit": 8,
                    }
                ],
            }
        },
    }


@final
class Sweep:
    """One sweep in a folder, the processes that drive it, and its MLflow server."""

    def __init__(self, folder: Path, storage: Path | None = None) -> None:
        self.folder, self.storage = folder, storage or folder / "runs"
        self.port = free_port()
        self.server: subprocess.Popen[bytes] | None = None
        self._processes: list[subprocess.Popen[str]] = []
        folder.mkdir(parents=True, exist_ok=True)
        tree = config(self.storage, f"http://127.0.0.1:{self.port}")
        self.file = folder / "sweep.yaml"
        self.file.write_text(yaml.safe_dump(tree))

    def start_server(self) -> None:
        """A real MLflow server on the loopback interface, with its store in the folder."""
        self.server = mlflow_server.start(self.folder, self.port)

    def stop_server(self) -> None:
        """Kill it, with its workers."""
        if self.server is not None:
            mlflow_server.kill(self.server)
            self.server = None

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """`python -m sweeps run`; its words go to a file beside the sweep."""
        command = [sys.executable, "-m", "sweeps", "run", str(self.file)]
        log = (self.folder / f"log-{len(self._processes)}.txt").open("w")
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )
        log.close()
        self._processes.append(process)
        return process

    def said(self, number: int = -1) -> str:
        """What the command of that number said, by default the last."""
        number = number % len(self._processes)
        return (self.folder / f"log-{number}.txt").read_text()

    def finish(self, process: subprocess.Popen[str], code: int = 0) -> None:
        """Wait for the end with that exit code."""
        found = process.wait(END_SECONDS)
        if found != code:
            raise AssertionError(f"exit code {found}, expected {code}:\n{self.said()[-3000:]}")

    def wait_for_trial(self, number: int) -> None:
        """Until that many trials have begun to train."""
        pattern = "faults/math/trials/*/events.jsonl"
        process = self._processes[-1]

        def begun() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"it ended too early:\n{self.said()[-3000:]}")
            return len(list(self.storage.glob(pattern))) > number

        wait_until(begun, START_SECONDS, f"trial {number} to train")

    def close(self) -> None:
        """End everything that may still run."""
        for process in self._processes:
            for pid in (*descendants(process.pid), process.pid):
                _kill(pid)
            process.wait()
        self.stop_server()


Fault = Callable[[Sweep, random.Random], None]


def undisturbed(sweep: Sweep, chance: random.Random) -> None:
    """Nothing happens."""
    sweep.finish(sweep.start())


def driver_killed(sweep: Sweep, chance: random.Random) -> None:
    """kill -9 of the driver at a random moment, with all that it started."""
    process = _at_a_random_moment(sweep, chance)
    started = descendants(process.pid)
    process.kill()
    process.wait()
    # Ray's two agents go last: they look for their raylet now and then, and first tell of its end.
    left = [f"{pid} {_title(pid)}" for pid in _left_after(GONE_SECONDS, started)]
    if left:
        raise AssertionError(f"still there after {GONE_SECONDS:.0f} s: {', '.join(left)}")
    sweep.finish(sweep.start())


def driver_terminated(sweep: Sweep, chance: random.Random) -> None:
    """SIGTERM to the driver."""
    process = _at_a_random_moment(sweep, chance)
    process.terminate()
    sweep.finish(process, 130)
    sweep.finish(sweep.start())


def worker_killed(sweep: Sweep, chance: random.Random) -> None:
    """kill -9 of one of the two train workers."""
    _kill_one(sweep, chance, "ray::RayTrainWorker")


def trial_actor_killed(sweep: Sweep, chance: random.Random) -> None:
    """kill -9 of the actor that stands for the trial in Tune."""
    # Tune wraps a class that is given resources; the name in front shows while it waits.
    _kill_one(sweep, chance, "ray::ResourceTrainable", "ray::GmtTrial")


def controller_killed(sweep: Sweep, chance: random.Random) -> None:
    """kill -9 of the controller that Ray Train watches the workers with."""
    _kill_one(sweep, chance, "ray::TrainController")


def raylet_killed(sweep: Sweep, chance: random.Random) -> None:
    """A cluster of a head without room for workers and a second node, whose raylet is killed; a
    third node joins then."""
    with _two_nodes(sweep.folder) as (address, cluster):
        process = sweep.start(RAY_ADDRESS=address)
        sweep.wait_for_trial(chance.randrange(3))
        time.sleep(chance.random())
        raylets = [pid for pid in descendants(cluster.pid) if _title(pid).endswith("raylet")]
        os.kill(max(raylets), signal.SIGKILL)
        assert cluster.stdin is not None
        cluster.stdin.write("add\n")
        cluster.stdin.flush()
        sweep.finish(process)


def tracking_down(sweep: Sweep, chance: random.Random) -> None:
    """The MLflow server is killed at a random moment and comes back two minutes later."""
    process = _at_a_random_moment(sweep, chance)
    sweep.stop_server()
    down = time.monotonic()
    while process.poll() is None and time.monotonic() < down + OUTAGE_SECONDS:
        time.sleep(0.5)
    time.sleep(max(0.0, down + OUTAGE_SECONDS - time.monotonic()))
    sweep.start_server()
    sweep.finish(process)


def disk_full(sweep: Sweep, chance: random.Random) -> None:
    """The storage, a file system of its own, fills up at a random moment."""
    process = _at_a_random_moment(sweep, chance)
    filler = sweep.storage / "filler"
    with filler.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    process.wait(END_SECONDS)
    said = sweep.said()
    if process.returncode != 2 or "No space left" not in said:
        raise AssertionError(f"exit code {process.returncode}:\n{said[-3000:]}")
    filler.unlink()
    sweep.finish(sweep.start())


def two_drivers(sweep: Sweep, chance: random.Random) -> None:
    """A second driver is refused by the name of the first."""
    # Early: the second takes seconds to start, and must find the first at work.
    first = _at_a_random_moment(sweep, chance, trials=2)
    sweep.finish(sweep.start(), 2)
    if f"process {first.pid} of " not in sweep.said():
        raise AssertionError(sweep.said())
    sweep.finish(first)
    sweep.finish(sweep.start())


FAULTS: dict[str, Fault] = {
    "driver_killed": driver_killed,
    "driver_terminated": driver_terminated,
    "worker_killed": worker_killed,
    "trial_actor_killed": trial_actor_killed,
    "controller_killed": controller_killed,
    "raylet_killed": raylet_killed,
    "tracking_down": tracking_down,
    "disk_full": disk_full,
    "two_drivers": two_drivers,
}


def run_fault(
    name: str, fault: Fault, seed: int, folder: Path, reference: dict[str, float]
) -> Verdict:
    """Do one fault to one sweep, and look at what is left. The server runs from the start."""
    started = time.monotonic()
    with _storage(name, folder) as storage:
        sweep = Sweep(folder, storage)
        try:
            sweep.start_server()
            fault(sweep, random.Random(seed))
            return judge(name, seed, time.monotonic() - started, sweep, reference)
        finally:
            sweep.close()


def scores(sweep: Sweep) -> dict[str, list[float]]:
    """Every finished trial's score by its point, from the Optuna storage."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(sqlite_address(sweep.storage / "faults" / "optuna.db"))
    study = optuna.load_study(study_name="faults/math", storage=storage)
    found: dict[str, list[float]] = {}
    for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)):
        found.setdefault(json.dumps(trial.params, sort_keys=True), []).append(trial.values[0])
    return found


def judge(
    name: str, seed: int, seconds: float, sweep: Sweep, reference: dict[str, float]
) -> Verdict:
    """Compare what is recorded with the sweep that nobody disturbed."""
    from mlflow import MlflowClient

    found = scores(sweep)
    wanted = reference or {point: values[0] for point, values in found.items()}
    client = MlflowClient(f"http://127.0.0.1:{sweep.port}")
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = list(client.search_runs(experiments))
    keys = Counter(run.data.tags.get("gmt.trial_key", run.info.run_id) for run in runs)
    doubled = 0
    for run in runs:
        history = client.get_metric_history(run.info.run_id, "train/loss")
        steps = Counter(point.step for point in history)
        doubled += sum(count - 1 for count in steps.values())
    return Verdict(
        fault=name,
        seed=seed,
        seconds=round(seconds, 1),
        trials=sum(map(len, found.values())),
        lost=sum(point not in found for point in wanted),
        run_twice=sum(len(values) - 1 for values in found.values()),
        different_scores=sum(values[0] != wanted.get(p) for p, values in found.items()),
        runs_duplicated=sum(count - 1 for count in keys.values())
        + abs(len(runs) - len(wanted) - 1),
        runs_stuck=sum(run.info.status != "FINISHED" for run in runs),
        steps_doubled=doubled,
    )


def reference_scores(folder: Path) -> dict[str, float]:
    """The scores of the sweep that nobody disturbs."""
    sweep = Sweep(folder)
    try:
        sweep.start_server()
        undisturbed(sweep, random.Random(0))
        return {point: values[0] for point, values in scores(sweep).items()}
    finally:
        sweep.close()


def wait_until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll; AssertionError when it takes longer."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    """The processes below one, whoever of them is alive."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True)
    children: dict[int, list[int]] = {}
    for line in listing.stdout.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found, waiting = list[int](), [pid]
    while waiting:
        new = children.get(waiting.pop(), [])
        found += new
        waiting += new
    return found


def _at_a_random_moment(
    sweep: Sweep, chance: random.Random, trials: int = 5
) -> subprocess.Popen[str]:
    process = sweep.start()
    sweep.wait_for_trial(chance.randrange(trials))
    time.sleep(2 * chance.random())
    return process


def _left_after(seconds: float, pids: list[int]) -> list[int]:
    """Those that are still alive when all should have gone."""
    end = time.monotonic() + seconds
    while (left := [pid for pid in pids if _is_alive(pid)]) and time.monotonic() < end:
        time.sleep(0.2)
    return left


def _kill_one(sweep: Sweep, chance: random.Random, *titles: str) -> None:
    process = _at_a_random_moment(sweep, chance)
    victims = [pid for pid in descendants(process.pid) if _title(pid).startswith(titles)]
    if not victims:
        raise AssertionError(f"no process is called {' or '.join(titles)}")
    os.kill(chance.choice(victims), signal.SIGKILL)
    sweep.finish(process)


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return ""


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@contextmanager
def _storage(fault: str, folder: Path) -> Iterator[Path | None]:
    """For a full disk a small file system of its own (mounting takes root); else the folder."""
    if fault != "disk_full":
        yield None
        return
    place = folder / "small_disk"
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


_CLUSTER = """
import sys
from ray.cluster_utils import Cluster
head = {"num_cpus": 1, "include_dashboard": True, "dashboard_port": int(sys.argv[1])}
cluster = Cluster(initialize_head=True, head_node_args=head)
cluster.add_node(num_cpus=3)
print("address", cluster.address, flush=True)
for line in sys.stdin:
    cluster.add_node(num_cpus=3)
    print("added", flush=True)
"""


@contextmanager
def _two_nodes(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Ray's own cluster of several nodes on one machine, in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", _CLUSTER, str(free_port())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(folder / "cluster.txt").open("w"),
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as cluster:
        try:
            assert cluster.stdout is not None
            while not (found := re.match(r"address (\S+)", cluster.stdout.readline())):
                if cluster.poll() is not None:
                    raise AssertionError((folder / "cluster.txt").read_text()[-2000:])
            yield found[1], cluster
        finally:
            for pid in (*descendants(cluster.pid), cluster.pid):
                _kill(pid)


def main() -> None:
    """The table, fault by fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--faults", nargs="*", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--out", type=Path, required=True, help="where the table is kept")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="faults-") as place:
        reference = reference_scores(Path(place) / "reference")
        with (arguments.out / "faults.csv").open("a", newline="") as file:
            table = csv.DictWriter(file, [each.name for each in fields(Verdict)])
            if not file.tell():
                table.writeheader()
            for name in arguments.faults:
                for seed in range(arguments.repeats):
                    folder = Path(place) / f"{name}-{seed}"
                    try:
                        verdict = run_fault(name, FAULTS[name], seed, folder, reference)
                    except AssertionError as error:  # an unexpected end; the others go on
                        print("UNSOUND", name, seed, error, flush=True)
                        continue
                    table.writerow(asdict(verdict))
                    file.flush()
                    print("sound  " if verdict.sound() else "UNSOUND", verdict, flush=True)


if __name__ == "__main__":
    main()
