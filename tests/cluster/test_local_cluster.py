"""`ray up cluster-local.yaml` on hosts of their own, over SSH: sweeps that lose what they run on.

One head, two workers, and a laptop that submits; see `tests.cluster.hosts`. The hosts share the
machine's clock, processors and memory, and their shared folder never fails: a slow or lost file
server, and clocks that differ, are not covered here.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import optuna
import pytest
import yaml

from tests.cluster.hosts import Hosts, missing_programs
from tests.cluster.local_cluster import ROOT, LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]
if sys.platform != "linux" or os.geteuid() != 0 or missing_programs():
    pytest.skip(
        f"needs Linux, root and {', '.join(missing_programs()) or 'its programs'}",
        allow_module_level=True,
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with Hosts("head", "worker-1", "worker-2", "laptop", kept=[ROOT]) as hosts:
        up = LocalCluster(hosts, cpus_per_worker=1)
        up.up()
        tree = yaml.safe_load((ROOT / "sweeps" / "configs" / "mini.yaml").read_text())
        tree["domains"] = {"math": tree["domains"]["math"]}
        (hosts.shared / "math.yaml").write_text(yaml.safe_dump(tree))
        yield up
        up.down()


@dataclass(frozen=True)
class Sweep:
    """A small sweep on the cluster: two workers, one trial on each at a time."""

    cluster: LocalCluster
    name: str
    trials: int = 3

    @property
    def folder(self) -> Path:
        return self.cluster.hosts.shared / "runs" / self.name

    def submit(self) -> str:
        shared = self.cluster.hosts.shared
        return self.cluster.submit(
            *("-m", "sweeps", "run", f"{shared}/math.yaml", f"name={self.name}"),
            *(f"storage={shared}/runs", f"search.trials={self.trials}"),
            *("training.examples=6144", "training.checkpoint_updates=20"),
            "search.scheduler.name=none",
        )

    def ended(self) -> int:
        """How many trials have a result."""
        return len([*self.folder.glob("math/trials/*/result.json")])

    def steps(self) -> dict[str, int]:
        """How many steps each trial has told of, by its key."""
        files = self.folder.glob("math/trials/*/events.jsonl")
        return {file.parent.name: len(file.read_bytes().splitlines()) for file in files}

    def wait_until_under_way(self, job: str) -> None:
        """Both workers train, and have saved a checkpoint."""
        wait(
            lambda: sum(count > 60 for count in self.steps().values()) >= 2,
            lambda: f"{self.cluster.status(job)}: {self.steps()} {self.cluster.logs(job)[-2000:]}",
            240,
        )

    def check_complete(self) -> None:
        """Every trial finished once, in Optuna and in MLflow, and no step is missing or double."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = optuna.storages.RDBStorage(f"sqlite:///{self.folder / 'optuna.db'}")
        study = optuna.load_study(study_name=f"{self.name}/math", storage=storage)
        done = [t.user_attrs["key"] for t in study.trials if t.state.name == "COMPLETE"]
        assert len(done) == len(set(done)) == self.trials
        assert all(t.state.is_finished() for t in study.trials)
        client = mlflow.MlflowClient(f"sqlite:///{self.cluster.hosts.shared}/mlflow/mlflow.db")
        experiment = client.get_experiment_by_name("gmt/math")
        assert experiment is not None
        query = f"tags.`gmt.study` = '{self.name}/math' and tags.`gmt.kind` = 'trial'"
        runs = client.search_runs([experiment.experiment_id], query)
        assert sorted(run.data.tags["gmt.trial_key"] for run in runs) == sorted(done)
        for run in runs:
            assert run.info.status == "FINISHED"
            points = client.get_metric_history(run.info.run_id, "train/loss")
            steps = [point.step for point in points]
            assert steps == list(range(1, len(steps) + 1))


def wait(true: Callable[[], bool], said: Callable[[], str], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(said())
        time.sleep(1)


def test_doctor_finds_every_node_fine(cluster: LocalCluster) -> None:
    shared = cluster.hosts.shared
    job = cluster.submit("-m", "sweeps", "doctor", f"{shared}/math.yaml", f"storage={shared}/runs")
    said = cluster.finish(job, 240)
    assert "FAILED" not in said
    for host in (cluster.head, *cluster.workers):
        part = said.partition(host.address)[2]
        assert "MLflow: http" in part and f"{shared}/runs is the same as on the driver" in part


def test_mlflow_is_reached_by_the_cluster_and_the_tunnel_and_by_no_other_name(
    cluster: LocalCluster,
) -> None:
    page = "api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    asked = "curl -s -o /dev/null -w '%{http_code}' -m 10"
    worker = cluster.workers[0].run(f"{asked} '{cluster.mlflow}/{page}'").stdout
    laptop = cluster.laptop.run(f"{asked} 'http://localhost:5000/{page}'").stdout
    stranger = cluster.workers[0].run(f"{asked} -H 'Host: a.b' '{cluster.mlflow}/{page}'").stdout
    assert (worker, laptop, stranger) == ("200", "200", "403")


def test_nobody_without_the_token_and_only_the_listed_ports(cluster: LocalCluster) -> None:
    denied = cluster.head.run(
        "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8265/api/jobs/", check=False
    ).stdout
    assert denied in ("401", "403")
    token = (cluster.laptop.home / ".ray" / "auth_token").read_text().strip()
    logs = cluster.head.run(f"grep -rlF {token} /tmp/ray/session_latest/logs", check=False)
    assert logs.stdout == ""
    lines = cluster.head.run("ss -Hltn").stdout.splitlines()
    ports = {line.split()[3].rpartition(":") for line in lines}
    everywhere = {port for address, _, port in ports if address in ("0.0.0.0", "*", "[::]")}
    fixed = {int(port) for port in everywhere if int(port) < 10000}
    assert fixed <= {22, 6379, 8076}, fixed


def test_a_folder_that_only_the_head_has_is_refused(cluster: LocalCluster) -> None:
    shared = cluster.hosts.shared
    job = cluster.submit("-m", "sweeps", "run", f"{shared}/math.yaml", "storage=/tmp/runs")
    with pytest.raises(AssertionError, match="must be one folder shared by all"):
        cluster.finish(job, 240)


def test_a_script_joins_the_cluster_and_finds_its_mlflow(cluster: LocalCluster) -> None:
    storage = f"{cluster.hosts.shared}/runs"
    given = ("--storage", storage, "--trials", "1")
    said = cluster.run_script("examples/sweep_script.py", *given, timeout=480)
    for workers in (1, 2):
        assert re.search(rf"{workers} workers per trial: 0\.\d+ with", said), said
    client = mlflow.MlflowClient(f"sqlite:///{cluster.hosts.shared}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("gmt/math")
    assert experiment is not None
    query = "tags.`gmt.study` = 'script-2/math' and tags.`gmt.kind` = 'trial'"
    assert len(client.search_runs([experiment.experiment_id], query)) == 1


def test_a_worker_host_is_lost(cluster: LocalCluster) -> None:
    """All its processes and its address go at once; its trial goes on in the other worker."""
    sweep = Sweep(cluster, "lost")
    job = sweep.submit()
    sweep.wait_until_under_way(job)
    cluster.hosts["worker-1"].kill()
    cluster.finish(job, 480)
    sweep.check_complete()
    cluster.hosts.restart("worker-1")
    cluster.wait_for_nodes(3)


def test_a_worker_is_cut_from_the_network(cluster: LocalCluster) -> None:
    """Its processes go on and nobody hears of them; its trial goes on in the other worker."""
    sweep = Sweep(cluster, "cut")
    job = sweep.submit()
    sweep.wait_until_under_way(job)
    cluster.hosts["worker-2"].cut()
    cluster.finish(job, 480)
    sweep.check_complete()
    cluster.hosts["worker-2"].mend()
    cluster.wait_for_nodes(3)


def test_the_driver_on_the_head_is_killed(cluster: LocalCluster) -> None:
    """`run` again goes on: finished trials stay, running ones continue from their checkpoints."""
    sweep = Sweep(cluster, "driver")
    job = sweep.submit()
    sweep.wait_until_under_way(job)
    before = sweep.steps()
    cluster.head.run("pkill -KILL -f 'sweeps run .*name=driver'")
    wait(lambda: cluster.status(job) == "FAILED", lambda: cluster.status(job), 60)
    again = sweep.submit()
    cluster.finish(again, 480)
    sweep.check_complete()
    assert set(before) <= set(sweep.steps())  # the same trials, in their own folders


def test_mlflow_does_not_answer_for_a_while(cluster: LocalCluster) -> None:
    """The study goes on, says so, and sends all of it once MLflow is back."""
    sweep = Sweep(cluster, "outage")
    job = sweep.submit()
    sweep.wait_until_under_way(job)
    cluster.head.run("pkill -STOP -f 'uvicorn.*mlflow'")
    try:
        time.sleep(45)
        before = sum(sweep.steps().values())
        time.sleep(5)
        goes_on = sum(sweep.steps().values()) > before or cluster.status(job) != "RUNNING"
        assert goes_on or sweep.ended() == sweep.trials  # all trained; the driver waits for MLflow
    finally:
        cluster.head.run("pkill -CONT -f 'uvicorn.*mlflow'")
    cluster.finish(job, 480)
    sweep.check_complete()


def test_the_head_s_disk_is_lost(cluster: LocalCluster) -> None:
    """The studies come back from the copy in the storage, and nothing is run again."""
    sweep = Sweep(cluster, "driver")
    cluster.finish(sweep.submit(), 480)  # done already, unless this test runs alone
    cluster.head.run("rm -r ~/.gmt-sweep")
    before = sweep.steps()
    said = cluster.finish(sweep.submit(), 240)
    assert "all 3 trials are already done" in said
    assert sweep.steps() == before
    sweep.check_complete()


def test_a_sweep_uses_what_comes_while_it_runs(cluster: LocalCluster) -> None:
    """It starts on one worker; the other is switched on later and takes its share."""
    lost = cluster.hosts["worker-1"]
    lost.kill()
    cluster.wait_for_nodes(2)
    sweep = Sweep(cluster, "grows", trials=4)
    job = sweep.submit()
    wait(lambda: bool(sweep.steps()), lambda: cluster.logs(job)[-2000:], 240)
    assert len(sweep.steps()) == 1
    cluster.hosts.restart("worker-1")
    sweep.wait_until_under_way(job)
    trainers = "pgrep -fc RayTrainWorker"
    wait(lambda: lost.run(trainers, check=False).stdout.strip() != "0", lambda: "idle", 120)
    cluster.finish(job, 480)
    sweep.check_complete()
