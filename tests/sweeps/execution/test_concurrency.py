"""How many trials run at once on what a cluster offers, now or later."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from sweeps.config.resources import Resources
from sweeps.execution import cluster, worker_groups
from sweeps.execution.cluster import check_room, concurrency, local_places
from sweeps.execution.tuner import scaling
from sweeps.execution.worker_groups import WorkerGroups, avoiding
from sweeps.finetune.hub import HubToken
from sweeps.storage.errors import UserError

PAIR = Resources(workers=2, cpus_per_worker=1, gpus_per_worker=1, concurrency=4)


@pytest.fixture(autouse=True)
def fixed_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_USAGE_STATS_KUBERAY_IN_USE", raising=False)


@pytest.mark.parametrize(
    ("cpus", "gpus", "expected"), [(100, 100, 4), (6, 100, 3), (100, 4, 2), (2, 2, 1)]
)
def test_a_cluster_of_fixed_size_takes_what_fits(cpus: int, gpus: int, expected: int) -> None:
    assert concurrency(PAIR, {"CPU": cpus, "GPU": gpus}, joined=True) == expected


def test_a_cluster_of_fixed_size_where_nothing_fits_is_refused() -> None:
    with pytest.raises(UserError, match="one trial needs 2 CPUs and 2 GPUs"):
        concurrency(PAIR, {"CPU": 64.0}, joined=True)


def test_a_cluster_that_grows_may_be_empty_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_KUBERAY_IN_USE", "1")
    assert concurrency(PAIR, {}, joined=True) == 4
    monkeypatch.delenv("RAY_USAGE_STATS_KUBERAY_IN_USE")
    (tmp_path / "ray_bootstrap_config.yaml").touch()
    assert concurrency(PAIR, {}, joined=True) == 4


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores and 8 GiB."""
    monkeypatch.setattr(cluster, "machine_memory", lambda: 8 * 2**30)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})


@pytest.mark.parametrize(
    ("workers", "asked", "expected"),
    # 512 MiB for a trial and 256 for each worker; 16 workers per core.
    [(1, 4, 4), (1, 1000, 10), (4, 1000, 5), (20, 1000, 1)],
)
def test_one_machine_has_as_many_trials_as_it_holds(
    small_machine: None, workers: int, asked: int, expected: int
) -> None:
    assert local_places(Resources(workers=workers, concurrency=asked)) == expected


def test_a_trial_that_one_machine_does_not_hold_is_refused(small_machine: None) -> None:
    with pytest.raises(
        UserError, match=r"workers 1000: this machine, with 2 cores .* holds at most 30;"
    ):
        local_places(Resources(workers=1000))


def test_a_long_folder_for_sockets_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/long")
    said = "validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /long/x"
    text = cluster._trouble(OSError(said))
    assert "longer than Unix allows (/long/x)" in text
    assert text.endswith("for example TMPDIR=/tmp")
    assert "busy" not in text
    assert "busy" in cluster._trouble(TimeoutError("The node timed out"))
    assert "busy" not in cluster._trouble(PermissionError("not allowed: /tmp/ray"))


def test_a_dashboard_that_does_not_start_is_told_without_its_log() -> None:
    said = (
        "\nThe last 20 lines of /tmp/ray/session_1/logs/dashboard.log (it contains the error "
        "message from the dashboard): \n2026-12-01 05:12:31 INFO head.py:262 -- Loading modules"
    )
    assert cluster._trouble(Exception(said)) == (
        "its dashboard did not start; see /tmp/ray/session_1/logs/dashboard.log. "
        "If the machine is very busy, try again"
    )


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"gpus_per_worker": 2}, "a worker uses one GPU, got 2; for more GPUs per trial, raise"),
        ({"gpus_per_worker": 0.25, "workers": 2}, "expected 1 with 2 workers, because NCCL"),
    ],
)
def test_gpus_that_workers_cannot_use_are_refused(
    resources: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValidationError, match=expected):
        Resources.model_validate(resources)
    assert Resources(gpus_per_worker=0.25).gpus_per_worker == 0.25


@pytest.mark.parametrize(
    ("gpus", "nodes", "expected"),
    [
        (1, [{"CPU": 12, "GPU": 4}, {"CPU": 96, "GPU": 8}, {"CPU": 8}], 3),
        (0.5, [{"CPU": 12, "GPU": 4}], 1),
        (1, [{"CPU": 2, "GPU": 4}], 1),
        (1, [], 1),
        (0, [{"CPU": 12}], 1),
    ],
)
def test_a_worker_has_the_cpus_that_go_with_its_gpu(
    gpus: float, nodes: list[dict[str, float]], expected: float
) -> None:
    assert Resources(cpus_per_worker="auto", gpus_per_worker=gpus).cpus(nodes) == expected
    assert Resources(cpus_per_worker=4, gpus_per_worker=gpus).cpus(nodes) == 4


@pytest.mark.parametrize(("resources", "hidden"), [(PAIR, set()), (Resources(), {""})])
def test_trials_without_gpus_see_none(
    monkeypatch: pytest.MonkeyPatch, resources: Resources, hidden: set[str]
) -> None:
    given: list[dict[str, Any]] = []

    def init(**options: Any) -> None:
        given.append(options["runtime_env"]["env_vars"])
        raise ConnectionError("enough")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "machine_memory", lambda: 2**40)
    monkeypatch.setattr("ray.init", init)
    with pytest.raises(UserError, match="enough"), cluster.ray_session(resources):
        raise AssertionError("it did not start")
    names = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
    assert {given[0][name] for name in names if name in given[0]} == hidden


def test_the_queue_has_room_for_the_calls_of_every_trial() -> None:
    trials = Resources(concurrency=1000).concurrency
    assert 2 * trials < worker_groups.MOST_CALLS


def test_workers_are_given_the_token_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(
        worker_groups, "TrainerWithoutDatasets", lambda loop, **given: found.append(given)
    )
    monkeypatch.setattr(worker_groups.ray, "get", lambda answer: answer)
    monkeypatch.setattr(worker_groups, "avoiding", lambda given, nodes: given)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    queue = SimpleNamespace(faulty_nodes=SimpleNamespace(remote=list))
    groups: Any = SimpleNamespace(
        _spec=SimpleNamespace(run_job=None, scaling=scaling(PAIR), storage="runs"),
        _torch_config=None,
        queue=queue,
    )
    WorkerGroups._trainer(groups, "group")
    token = found[0]["train_loop_config"]["token"]
    monkeypatch.delenv("HF_TOKEN")
    token.use()
    assert os.environ["HF_TOKEN"] == "hf_secret"


def test_a_fault_of_hardware_is_told_with_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def remote(name: str) -> Any:
        return SimpleNamespace(remote=lambda *given: calls.append((name, *given)))

    queue = SimpleNamespace(**{name: remote(name) for name in ("interrupt", "finish", "stalls")})
    context = SimpleNamespace(get_node_id=lambda: "node-7")
    monkeypatch.setattr(worker_groups.ray, "get", lambda answer: answer)
    monkeypatch.setattr(worker_groups.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(worker_groups.ray.util, "get_node_ip_address", lambda: "10.0.0.7")

    def fails(*given: Any) -> None:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")

    order: Any = SimpleNamespace(job=None, job_id="job")
    with pytest.raises(RuntimeError, match="ECC"):
        worker_groups._run_one(order, fails, queue, lambda ask: ask(), {}, 0, "by")
    ((name, job, told, by, node),) = calls
    assert (name, job, by, node) == ("interrupt", "job", "by", "node-7")
    assert "rank 0 on 10.0.0.7" in told and "ECC" in told


@pytest.mark.parametrize(
    ("workers", "trials", "seconds"), [(1, 1, "0.2"), (8, 12, "0.2"), (8, 125, "2"), (8, 999, "5")]
)
def test_many_workers_are_polled_less_often(workers: int, trials: int, seconds: str) -> None:
    found = cluster._of_workers(Resources(workers=workers, concurrency=trials))
    assert found["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == seconds


def test_a_concurrency_of_no_sense_is_refused() -> None:
    with pytest.raises(ValidationError, match="less than or equal to 1000"):
        Resources(concurrency=100_000)


def test_no_more_groups_than_there_are_jobs_for(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = SimpleNamespace(options=lambda **given: SimpleNamespace(remote=lambda *given: None))
    monkeypatch.setattr(worker_groups.ray, "remote", lambda actor: queue)
    started: list[WorkerGroups] = []
    monkeypatch.setattr(WorkerGroups, "_supervise", lambda self: started.append(self))
    spec: Any = SimpleNamespace(restarts=0, recycle_after_seconds=1.0)
    groups = WorkerGroups(spec, 3)
    for jobs, expected in ((0, 0), (1, 1), (1, 1), (2, 2), (1, 2), (100_000, 3)):
        groups.start(jobs)
        assert len(groups._threads) == expected
        assert groups._living == expected
    for thread in groups._threads:
        thread.join()
    assert len(started) == 3


def test_the_token_for_gated_models_reaches_workers_and_no_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    token = pickle.loads(pickle.dumps(HubToken.of_driver()))
    assert "hf_secret" not in f"{token} {token!r} {[token]}"
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_node")
    token.use()
    assert os.environ["HF_TOKEN"] == "hf_of_the_node"
    monkeypatch.delenv("HF_TOKEN")
    HubToken.of_driver().use()
    assert "HF_TOKEN" not in os.environ
    token.use()
    assert os.environ["HF_TOKEN"] == "hf_secret"


def node(name: str, gpus: float, alive: bool = True) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "Resources": {"CPU": 8.0, "GPU": gpus}}


def test_new_groups_avoid_nodes_with_faults_where_others_have_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = scaling(PAIR)
    nodes = [node("a", 4), node("b", 2), node("c", 4, alive=False)]
    monkeypatch.setattr(worker_groups.ray, "nodes", lambda: nodes)
    assert avoiding(asked, []) == asked
    assert avoiding(asked, ["a"]).label_selector == {"ray.io/node-id": "!in(a)"}
    assert avoiding(asked, ["a", "b"]) == asked  # no other has room
    monkeypatch.setenv("RAY_USAGE_STATS_KUBERAY_IN_USE", "1")  # but one may come
    assert avoiding(asked, ["a", "b"]).label_selector == {"ray.io/node-id": "!in(a,b)"}


GPU_TYPES = """
available_node_types:
  head.cpu: {resources: {CPU: 0}, max_workers: 0}
  worker.gpu: {resources: {CPU: 48, GPU: 4}, max_workers: 2}
"""


@pytest.mark.parametrize(
    ("workers", "one_node", "refused"),
    [
        (4, True, ""),
        (8, False, ""),
        (8, True, "the largest node holds 4 workers with 12 CPU and 1 GPU each; use larger"),
        (9, False, "workers 9: the nodes of this cluster hold at most 8 workers with 12 CPU"),
    ],
)
def test_a_trial_that_no_growth_makes_room_for_is_refused(
    workers: int, one_node: bool, refused: str, tmp_path: Path
) -> None:
    """No worker node is there yet: `ray up` starts the head alone."""
    (tmp_path / "ray_bootstrap_config.yaml").write_text(GPU_TYPES)
    asked = Resources(workers=workers, cpus_per_worker="auto", gpus_per_worker=1)
    if not refused:
        return check_room(asked, one_node)
    with pytest.raises(UserError, match=refused):
        check_room(asked, one_node)


def test_nothing_is_refused_where_node_types_are_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ray_bootstrap_config.yaml").write_text(
        "available_node_types: {local: {resources: {}, max_workers: 2}}"
    )
    check_room(PAIR, one_node=True)
    (tmp_path / "ray_bootstrap_config.yaml").unlink()
    monkeypatch.setenv("RAY_USAGE_STATS_KUBERAY_IN_USE", "1")
    check_room(PAIR, one_node=True)


def test_a_cluster_of_fixed_size_has_the_nodes_that_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = [node("a", 1), node("b", 1), node("c", 4, alive=False)]
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    check_room(PAIR, one_node=False)
    with pytest.raises(UserError, match="the largest node holds 1 workers"):
        check_room(PAIR, one_node=True)
