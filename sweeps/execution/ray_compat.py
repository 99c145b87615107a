"""Private names of Ray, each with the reason why its public API is not enough.

`tests/test_compat.py` checks that they exist. `sweeps.execution.train_compat` holds those of Ray
Train, because its import takes seconds.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

HEAD_SHARE = {"node:__internal_head__": 0.0001}
"""The resource request of actors that only wait for others: it places them on the head.

The head node is never removed, and the actors occupy no CPU or GPU there. Ray's public node
affinity needs the head's id, which is unknown before Ray has started."""

POLLING_INTERVAL = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
"""How often Train polls each worker; it learns only then that one is up or gone."""

WORKER_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process per group; trials resume without it
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
}
# Ctrl-C is ours: Tune's handler would spend it on a last snapshot that nothing reads.
DRIVER_ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new console output speaks even when told to be silent
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial has no score
    # Else the raylet warns that a group's helper processes are many for a small machine.
    "RAY_worker_maximum_startup_concurrency": "8",
    "RAY_prestart_worker_first_driver": "0",  # they would lack our environment
    "RAY_worker_niceness": "0",  # with Ray's 15, other programs slow down the trials
}

BOOTSTRAP_FILE, KUBERAY_VARIABLE = "ray_bootstrap_config.yaml", "RAY_USAGE_STATS_KUBERAY_IN_USE"


@contextmanager
def no_sigterm_handler() -> Iterator[None]:
    """During the block ``ray.init`` sets no handler of Python for SIGTERM: no option says so."""
    from ray._private import utils

    setter = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = setter


@contextmanager
def loopback_only(free_port: Callable[[], int]) -> Iterator[int]:
    """During the block, ``ray.init`` starts a Ray that listens only on 127.0.0.1; yields its port.

    The environment may set the port. Ray reads its own switch for this when it is imported, and
    ``ray.init`` has no argument for the port. Also read then: how long the dashboard may take to
    start. On a busy machine it needs more than Ray's minute; one that fails ends at once.
    """
    from ray._private import ray_constants

    variable = ray_constants.GCS_PORT_ENVIRONMENT_VARIABLE
    before, given = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(variable)
    port = given or str(free_port())
    ray_constants.ENABLE_RAY_CLUSTER = False
    ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S = 300
    os.environ[variable] = port
    try:
        yield int(port)
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        if given is None:
            del os.environ[variable]


def running_here() -> str:
    """The address of the cluster that was started on this machine.

    Ray's public API finds it only in ``ray.init``, which also joins it.

    Raises:
        ConnectionError: there is none.
    """
    from ray._private.services import get_ray_address_from_environment

    return str(get_ray_address_from_environment("auto", None))


def visit_shipped(folder: Path, excludes: Sequence[str], visit: Callable[[Path], None]) -> None:
    """Visit every file and folder that ``ray job submit --working-dir`` would send, by its own
    rules: .gitignore, .rayignore, ``excludes``. No command lists them without sending them."""
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    quiet = logging.getLogger(f"{__name__}.quiet")
    quiet.disabled = True
    left_out = _get_excludes(folder, list(excludes))
    _dir_travel(folder, [left_out], visit, include_gitignore=True, logger=quiet)


def has_autoscaler() -> bool:
    """Whether the cluster of this head node has an autoscaler, so that what is not there yet may
    come: ``ray.cluster_resources`` has only what is there.

    `ray up` leaves this file on the head node, where submitted jobs run; KubeRay says by this
    variable that it made the pod.
    """
    by_launcher = Path("~", BOOTSTRAP_FILE).expanduser().exists()
    return by_launcher or os.environ.get(KUBERAY_VARIABLE) == "1"


def startable_nodes() -> list[tuple[dict[str, float], int]]:
    """The resources of each type of worker node that the autoscaler may start, and how many.

    Empty if there is no autoscaler, or if it does not say: Ray's public API names only nodes that
    are there, and KubeRay leaves no such file in the pod.
    """
    file = Path("~", BOOTSTRAP_FILE).expanduser()
    config = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None
    types = (config or {}).get("available_node_types", {}).values()
    found = [(each.get("resources"), each.get("max_workers", 0)) for each in types]
    workers = [(resources, most) for resources, most in found if most]
    return workers if all(resources for resources, _ in workers) else []
