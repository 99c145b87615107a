"""What 1,000 workers cost the head: its queue, database and tracker, with workers that only wait.

    python benchmarks/stand_in_workers.py --out benchmarks/records/DATE_stand_in_workers

The queue is the real actor of a real Ray session, Optuna writes a sqlite file, and one pump sends
the events of every trial to a real MLflow server. The workers and the clients of their trials are
coroutines of this process: an update each ten seconds, three checks in a trial. All trials are
under way when it starts, so that they end at a steady rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import mlflow_server
import optuna
import psutil
import ray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sweeps.execution.job_client import LONGEST_POLL_SECONDS, POLL_SECONDS  # noqa: E402
from sweeps.execution.job_messages import MeasuringJob, Run  # noqa: E402
from sweeps.execution.job_queue import JobQueue  # noqa: E402
from sweeps.execution.worker_groups import MOST_CALLS  # noqa: E402
from sweeps.finetune.reporter import Check, RunResult  # noqa: E402
from sweeps.tracking.event_log import Outbox  # noqa: E402
from sweeps.tracking.mlflow_tracker import MlflowTracker  # noqa: E402
from sweeps.tracking.tracker import StudyInfo, TrialInfo  # noqa: E402
from sweeps.tracking.tracker_pump import TrackerPump  # noqa: E402

CHECKS, METRICS, UPDATE_SECONDS = 3, 15, 10.0
INTERVALS = (1, 2, 4)
SPACE: dict[str, optuna.distributions.BaseDistribution] = {
    "mask_ratio": optuna.distributions.FloatDistribution(0.0, 0.9, step=0.1),
    "learning_rate": optuna.distributions.FloatDistribution(1e-6, 1e-4, log=True),
    "accumulation_interval": optuna.distributions.CategoricalDistribution(INTERVALS),
}
TOOK: dict[str, list[float]] = defaultdict(list)


async def timed(name: str, call: Awaitable[Any]) -> Any:
    """Await a call and keep its seconds."""
    began = time.perf_counter()
    found = await call
    TOOK[name].append(time.perf_counter() - began)
    return found


class Sweep:
    """The head's side of a sweep, and where its workers write."""

    def __init__(self, folder: Path, uri: str, trial_seconds: float) -> None:
        self.folder, self.trial_seconds = folder, trial_seconds
        self.started = self.ended = 0
        self.queue: Any = (
            ray.remote(JobQueue).options(num_cpus=0, max_concurrency=MOST_CALLS).remote(3)
        )
        self.storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/optuna.db")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study = optuna.create_study(
            storage=self.storage, direction="maximize", sampler=optuna.samplers.TPESampler(seed=0)
        )
        self.database = asyncio.Lock()
        self.pump = TrackerPump(MlflowTracker(uri), print)
        self.pump.begin_study(StudyInfo("scale/math", "scale", "math", "", "none", "", {}))

    async def under_way(self) -> optuna.Trial:
        """A trial that was asked for before, in one write."""
        point = {"mask_ratio": round(random.randrange(10) / 10, 1), "learning_rate": 1e-5}
        template = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            params={**point, "accumulation_interval": random.choice(INTERVALS)},
            distributions=SPACE,
        )

        def create() -> optuna.Trial:
            study_id = self.storage.get_study_id_from_name(self.study.study_name)
            return optuna.Trial(self.study, self.storage.create_new_trial(study_id, template))

        async with self.database:
            return await asyncio.to_thread(create)

    async def ask(self) -> optuna.Trial:
        """The next point."""

        def suggest() -> optuna.Trial:
            return self.study.ask(SPACE)

        async with self.database:
            found: optuna.Trial = await timed("ask", asyncio.to_thread(suggest))
            return found

    async def tell(self, trial: optuna.Trial, score: float) -> None:
        """Record a score."""
        async with self.database:
            await timed("tell", asyncio.to_thread(self.study.tell, trial, score))

    async def trials(self, number: int) -> None:
        """One place of the sweep: a trial after another, as a Tune actor follows them."""
        for repeat in range(1_000_000):
            trial = await (self.ask() if repeat else self.under_way())
            self.started += not repeat
            key, job_id = f"{number}-{repeat}", uuid.uuid4().hex
            self.pump.begin(TrialInfo(key, trial.number, dict(trial.params), 0), self.folder / key)
            await self.queue.submit.remote(job_id, MeasuringJob(key, {}, 0))
            score, poll = None, POLL_SECONDS
            while score is None:
                result = await self.queue.peek.remote(job_id, poll)
                poll = min(2 * poll, LONGEST_POLL_SECONDS)
                if result is None:
                    await self.queue.is_held.remote(job_id)
                elif isinstance(result.value, Check):
                    poll = POLL_SECONDS
                    await self.queue.ack.remote(job_id)
                else:
                    score = result.value.score
            await self.tell(trial, score)
            outcome = {"state": "finished", "score": score, "seconds": 1.0, "metrics": {}}
            self.pump.end(key, self.folder / key, {**outcome, "failure": ""})
            self.ended += 1

    async def worker(self, name: str) -> None:
        """Rank 0 of a group."""
        share = random.random()  # of the first trial that is left
        while (order := await self.queue.fetch.remote(name, None, name)) != "leave":
            if isinstance(order, Run):
                await self.train(order, name, share)
                share = 1.0

    async def train(self, order: Run, name: str, share: float) -> None:
        """A trial that only waits, tells of its updates, and reports checks."""
        updates = max(CHECKS, round(share * self.trial_seconds / UPDATE_SECONDS))
        checks = {round(updates * part / CHECKS) for part in range(1, CHECKS)}
        with Outbox(self.folder / order.job.key / "events.jsonl") as outbox:
            for step in range(1, updates + 1):
                await asyncio.sleep(UPDATE_SECONDS * random.uniform(0.5, 1.5))
                metrics = {f"train/{number}": random.random() for number in range(METRICS)}
                outbox.append("step", step=step, metrics=metrics)
                if step in checks:
                    check = Check(step, updates, random.random())
                    await timed("report", self.report(order.job_id, check, name))
            result = RunResult("finished", updates, updates, random.random())
            await timed("finish", self.queue.finish.remote(order.job_id, result, name))

    async def report(self, job_id: str, check: Check, name: str) -> None:
        """Until the trial goes on."""
        while await self.queue.report.remote(job_id, check, name) == "wait":
            pass


async def drive(sweep: Sweep, workers: int, seconds: float) -> dict[str, Any]:
    """Run for so long; what the head's processes took meanwhile."""
    tasks = [asyncio.create_task(sweep.worker(f"w{number}")) for number in range(workers)]
    tasks += [asyncio.create_task(sweep.trials(number)) for number in range(workers)]
    while sweep.started < workers:
        await asyncio.sleep(1)
    TOOK.clear()
    pid = await sweep.queue.__ray_call__.remote(lambda actor: os.getpid())
    processes = {"queue": psutil.Process(pid), "driver": psutil.Process()}
    before = {name: sum(each.cpu_times()[:2]) for name, each in processes.items()}
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    found: dict[str, Any] = {"seconds": round(took, 1), "trials_ended": sweep.ended}
    for name, each in processes.items():
        used = sum(each.cpu_times()[:2]) - before[name]
        found[f"{name}_cpu_percent"] = round(100 * used / took, 1)
        found[f"{name}_mib"] = round(each.memory_info().rss / 2**20)
    for name, values in TOOK.items():
        found[f"{name}_ms"] = spread(values)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return found


def spread(seconds: list[float]) -> dict[str, float]:
    """Count, and the median, 99th percentile and largest in milliseconds."""
    if len(seconds) < 2:
        return {"count": len(seconds)}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    parts = {"median": cuts[49], "p99": cuts[98], "max": max(seconds)}
    return {"count": len(seconds), **{name: round(1000 * s, 1) for name, s in parts.items()}}


def tracked(uri: str) -> dict[str, int]:
    """The runs that MLflow has."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("gmt/math")
    ids = [experiment.experiment_id] if experiment else []
    return {"mlflow_runs": len(client.search_runs(ids, max_results=5000)) if ids else 0}


def main() -> None:
    """Print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--trial-seconds", type=float, default=600.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="workers-") as place,
        mlflow_server.serving(Path(place)) as uri,
    ):
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        sweep = Sweep(Path(place), uri, given.trial_seconds)
        found = asyncio.run(drive(sweep, given.workers, given.seconds))
        ray.shutdown()
        found = {"workers": given.workers, "trial_seconds": given.trial_seconds, **found}
        found |= tracked(uri)
        sweep.pump.close(timeout=0.1)
    print(json.dumps(found, indent=1))
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "stand_in_workers.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
