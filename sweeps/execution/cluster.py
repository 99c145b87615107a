"""Join or start Ray, and compute how many trials and workers fit on it, now or once it grows."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from sweeps.config.resources import Resources
from sweeps.execution.cluster_reachable import check_reachable
from sweeps.execution.ray_compat import (
    DRIVER_ENVIRONMENT,
    POLLING_INTERVAL,
    WORKER_ENVIRONMENT,
    has_autoscaler,
    loopback_only,
    no_sigterm_handler,
    startable_nodes,
)
from sweeps.finetune.memory_check import machine_memory
from sweeps.storage.address import cluster_address
from sweeps.storage.errors import UserError

Amounts = Mapping[str, float]
TRIAL_BYTES, WORKER_BYTES = 512 * 2**20, 256 * 2**20
"""The least memory of a trial's helper processes, and of each of its workers."""

MOST_WORKERS_PER_CORE = 16

POLLS_PER_SECOND = 500

_VISIBLE_GPUS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")

_QUIET = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}


@contextmanager
def ray_session(resources: Resources) -> Iterator[int]:
    """Join the cluster of ``RAY_ADDRESS`` or start one on this machine; yields the concurrency.

    A cluster started here is stopped at the end, with all its processes.

    Raises:
        UserError: Ray does not start, or not even one trial fits.
    """
    joined = bool(cluster_address())
    if not joined:
        resources = resources.model_copy(update={"concurrency": local_places(resources)})
    options = {} if joined else _local_options(resources)
    with connected("auto" if joined else "local", options, _of_workers(resources)):
        import ray

        cpus = worker_needs(resources)["CPU"]
        resources = resources.model_copy(update={"cpus_per_worker": cpus})
        yield concurrency(resources, ray.cluster_resources(), joined=joined)


def _of_workers(resources: Resources) -> dict[str, str]:
    """The environment of workers: trials without GPUs see none, since Ray hides only those of
    others; Train polls all workers at most `POLLS_PER_SECOND` times, each every 0.2 to 5 s."""
    workers = resources.concurrency * resources.workers
    interval = {POLLING_INTERVAL: f"{min(5.0, max(0.2, workers / POLLS_PER_SECOND)):g}"}
    hidden = () if resources.gpus_per_worker else _VISIBLE_GPUS
    return interval | dict.fromkeys(hidden, "")


def local_places(resources: Resources) -> int:
    """How many trials this machine alone can hold at once, at most the configured number.

    This only prevents absurd values, far above what runs well: each trial has its own processes.

    Raises:
        UserError: it cannot hold even one trial.
    """
    cores, memory = len(os.sched_getaffinity(0)), machine_memory()
    per_trial = TRIAL_BYTES + resources.workers * WORKER_BYTES
    places = min(memory // per_trial, cores * MOST_WORKERS_PER_CORE // resources.workers)
    if places < 1:
        most = min((memory - TRIAL_BYTES) // WORKER_BYTES, cores * MOST_WORKERS_PER_CORE)
        raise UserError(
            f"resources.workers {resources.workers}: this machine, with {cores} cores and "
            f"{memory / 2**30:.0f} GiB, holds at most {max(1, most)}; lower it, or join a cluster"
        )
    return min(resources.concurrency, places)


@contextmanager
def connected(
    address: str, options: dict[str, object], environment: dict[str, str] | None = None
) -> Iterator[None]:
    """Ray, joined ("auto") or started ("local") by ``ray.init``; ``environment``: of its workers.

    Raises:
        UserError: it cannot be joined or started.
    """
    os.environ.update({k: v for k, v in DRIVER_ENVIRONMENT.items() if k not in os.environ})
    import ray

    if ray.is_initialized():
        raise UserError("Ray is already running in this process; call ray.shutdown() first")
    if address == "auto":
        check_reachable(cluster_address())
    with _sigterm_kept():
        try:
            _start_ray(address, options, environment or {})
        except KeyboardInterrupt:
            ray.shutdown()
            raise
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Keep the process's SIGTERM handler during and after the block.

    Ray sets two handlers. The Python one ends the process at once, so it is suppressed. The one
    for crashes calls the previous handler, but aborts the process three seconds later, even if
    trials are not yet marked as interrupted; its alarm is cancelled.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)

    def without_alarm(number: int, frame: FrameType | None) -> None:
        signal.alarm(0)
        if callable(before):
            before(number, frame)
        elif before == signal.SIG_DFL:
            raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, without_alarm)
    try:
        with no_sigterm_handler():
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start_ray(address: str, options: dict[str, object], environment: dict[str, str]) -> None:
    import ray

    try:
        with warnings.catch_warnings(), _to_itself(address) as own:
            warnings.simplefilter("ignore")  # deprecations inside Ray, which users cannot fix
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
                runtime_env={"env_vars": {**WORKER_ENVIRONMENT, **_QUIET, **own, **environment}},
                **options,
            )
    except Exception as error:  # Ray raises bare exceptions and many connection errors
        ray.shutdown()
        if address == "auto":
            raise UserError(
                f"RAY_ADDRESS {cluster_address()}: Ray could not be joined: {_trouble(error)} "
                "Correct the address, or unset it to run on this machine"
            ) from error
        raise UserError(f"Ray could not be started: {_trouble(error)}") from error


def _trouble(error: Exception) -> str:
    """Ray's error message, with a fix if one is known."""
    said = " ".join(str(error).split())
    if "AF_UNIX path length" in said:
        folder = next((n for n in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(n)), "RAY_TMPDIR")
        return (
            "the path of its sockets is longer than Unix allows "
            f"({said.rpartition(' ')[2]}). Set a shorter folder for temporary files, for example "
            f"{folder}=/tmp"
        )
    if log := re.search(r"The last \d+ lines of (\S+dashboard\.\w+)", said):
        return f"its dashboard did not start; see {log[1]}. If the machine is very busy, try again"
    is_late = any(word in said.lower() for word in ("timed out", "timeout", "within"))
    return f"{said} If the machine is very busy, try again" if is_late else said


def _local_options(resources: Resources) -> dict[str, object]:
    # Logical CPUs: as many as the configured trials need, regardless of the machine, so that a
    # one-core laptop runs the same sweep more slowly. The dashboard must be on: without it Ray
    # leaks the placement groups of stopped trials, and the sweep hangs.
    cpus = resources.concurrency * resources.workers * resources.cpus() + 1
    return {"num_cpus": int(cpus + 0.999), "include_dashboard": True}


@contextmanager
def _to_itself(address: str) -> Iterator[dict[str, str]]:
    """Restrict a Ray that starts on this machine alone to 127.0.0.1, during the block.

    Yields the environment for its workers, which binds them to 127.0.0.1 and names Ray's address.
    Train needs the address after a controller has died; otherwise it might connect to another Ray
    on this machine.
    """
    if address != "local":
        yield {}
        return
    with loopback_only(free_port) as port:
        yield {"RAY_ADDRESS": f"127.0.0.1:{port}", **_loopback()}


def _loopback() -> dict[str, str]:
    """The loopback interface for gloo and NCCL, when all workers are on one machine."""
    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    return {"GLOO_SOCKET_IFNAME": names[0], "NCCL_SOCKET_IFNAME": names[0]} if names else {}


def free_port(wanted: int = 0) -> int:
    """A port of the loopback interface that is currently free: the wanted one, if it is."""
    try:
        with socket.create_server(("127.0.0.1", wanted)) as free:
            return int(free.getsockname()[1])
    except OSError:
        return free_port()


def concurrency(resources: Resources, available: dict[str, float], *, joined: bool) -> int:
    """How many trials fit at once, at most the configured number.

    With more trial actors than that, each would hold part of the workers it needs and wait
    forever.

    Raises:
        UserError: none fits on the joined cluster.
    """
    fits = resources.concurrency
    need = {
        "CPU": resources.workers * resources.cpus(),
        "GPU": resources.workers * resources.gpus_per_worker,
    }
    if joined and has_autoscaler():
        return fits
    for kind, amount in need.items():
        if amount:
            fits = min(fits, int(available.get(kind, 0.0) / amount))
    if fits < 1:
        raise UserError(
            f"resources: one trial needs {need['CPU']:g} CPUs and {need['GPU']:g} GPUs, but Ray "
            f"has {available.get('CPU', 0):g} and {available.get('GPU', 0):g}; lower "
            "resources.workers or resources.gpus_per_worker, or join a larger cluster"
        )
    return fits


def has_other_nodes() -> bool:
    """Whether the joined Ray has, or may get, nodes besides this machine."""
    return bool(cluster_address()) and (has_autoscaler() or len(live_nodes()) > 1)


def live_nodes() -> list[dict[str, float]]:
    """The resources of each node of the cluster that this process has joined, if any."""
    import ray

    joined = ray.nodes() if ray.is_initialized() else ()
    return [node["Resources"] for node in joined if node["Alive"]]


def worker_needs(resources: Resources) -> dict[str, float]:
    """What Ray reserves for each worker, on the nodes that are there or may be started."""
    nodes = [*live_nodes(), *(node for node, _ in startable_nodes())]
    gpus = {"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}
    return {"CPU": resources.cpus(nodes), **gpus}


def places(node: Amounts, needs: Amounts) -> int:
    """How many workers with these needs a node holds."""
    return min(int(node.get(name, 0) / amount) for name, amount in needs.items())


def check_room(resources: Resources, one_node: bool) -> None:
    """Refuse a trial that no growth of the cluster makes room for.

    ``one_node``: its workers share the disk of one node (see `Stored`).

    Raises:
        UserError: says how many workers fit. Nothing is refused if that is unknown.
    """
    startable = startable_nodes()
    nodes = startable or [(node, 1) for node in live_nodes()]
    if not nodes or (has_autoscaler() and not startable):
        return
    needs, wanted = worker_needs(resources), resources.workers
    fitting = [(places(node, needs), most) for node, most in nodes]
    each = " and ".join(f"{amount:g} {name}" for name, amount in needs.items())
    if wanted > (there := sum(here * most for here, most in fitting)):
        raise UserError(
            f"resources.workers {wanted}: the nodes of this cluster hold at most {there} workers "
            f"with {each} each; lower it, or use more or larger nodes"
        )
    if one_node and wanted > (largest := max(here for here, _ in fitting)):
        raise UserError(
            f"training.parallel fsdp with storage in an object store: the {wanted} workers of a "
            f"trial write one checkpoint to the disk of one node, and the largest node holds "
            f"{largest} workers with {each} each; use larger nodes, fewer resources.workers, or "
            "a folder that all nodes share as storage"
        )
