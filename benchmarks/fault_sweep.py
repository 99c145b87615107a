"""The sweep that faults are done to: its configuration, its driver, its cluster and its disk."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, final

import fault_processes as processes
import mlflow_server
import yaml
from fault_processes import MARK
from fault_stand_in import WORKERS

from sweeps.execution.cluster import free_port
from sweeps.mini.world import cache_folder

ROOT = Path(__file__).parents[1]
DOMAIN = "math"
DISK = "96m"
GONE_SECONDS = 180.0
"""Ray's agents go last: they look for their raylet now and then, and first tell of its end."""


def config(storage: Path, tracking: str, name: str = "faults") -> dict[str, Any]:
    """Eight trials in two stages of a fixed design: every score is known beforehand."""
    return {
        "name": name,
        "storage": str(storage),
        "tracking": {"uri": tracking},
        "model": {"path": "mini:model", "dtype": "float32"},
        "resources": {"workers": WORKERS, "concurrency": 1},
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
            DOMAIN: {
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
class Server:
    """A real MLflow server on the loopback interface, which keeps its port and its store."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, unless it runs."""
        if self._process is None:
            self._process = mlflow_server.start(self._folder, self._port)

    def stop(self) -> None:
        """Kill it, with its workers."""
        if self._process is not None:
            mlflow_server.kill(self._process)
            self._process = None

    def pids(self) -> list[int]:
        """Its processes."""
        server = self._process
        return [] if server is None else [server.pid, *processes.descendants(server.pid)]


@final
class Sweep:
    """One sweep in a folder of its own, with everything that it starts; a context manager.

    The folder's name is the sweep's. ``nodes``: with 2, a Ray cluster of a head without room for
    workers, and a second node. ``broken``: see `fault_stand_in`.
    """

    def __init__(
        self, folder: Path, tracking: str, nodes: int = 1, *, broken: bool = False
    ) -> None:
        self.folder, self._nodes, self._broken = folder, nodes, broken
        self.storage = folder / "disk"
        self._drivers: list[subprocess.Popen[str]] = []
        self._cluster: subprocess.Popen[str] | None = None
        self._file = folder / "sweep.yaml"
        temporary = folder / "t"
        self.storage.mkdir(parents=True)
        temporary.mkdir()
        self._file.write_text(yaml.safe_dump(config(self.storage, tracking, folder.name)))
        self._environment = {
            **os.environ,
            MARK: str(folder),
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(temporary),
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(Path.home() / ".cache"),  # Matplotlib's fonts
            "GMT_SWEEP_CACHE": str(cache_folder()),
        }
        self._environment.pop("RAY_ADDRESS", None)

    def __enter__(self) -> Sweep:
        """Mount its disk (as root), and start its cluster."""
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(self.storage)]
        subprocess.run(command, check=True)
        try:
            if self._nodes > 1:
                self._start_cluster()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        """End everything that may still run."""
        children = [*self._drivers, *([self._cluster] if self._cluster else [])]
        for _ in range(3):  # a dying parent may start another child
            processes.kill(processes.marked(str(self.folder)))
            for child in children:
                child.wait()
        subprocess.run(["umount", "--lazy", str(self.storage)], check=True)

    def start(self) -> subprocess.Popen[str]:
        """`run`; its words go to a file beside the sweep."""
        broken = ["--twice"] if self._broken else []
        command = [sys.executable, str(ROOT / "benchmarks/fault_stand_in.py"), *broken, "run"]
        with self._log(len(self._drivers)).open("w") as log:
            driver = subprocess.Popen(
                [*command, str(self._file)],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                env=self._environment,
            )
        self._drivers.append(driver)
        return driver

    def said(self, driver: subprocess.Popen[str]) -> str:
        """What a command said."""
        return self._log(self._drivers.index(driver)).read_text()

    def logged(self) -> int:
        """The lines of all event logs."""
        logs = self.storage.glob(f"{self.folder.name}/{DOMAIN}/trials/*/events.jsonl")
        return sum(log.read_bytes().count(b"\n") for log in logs)

    def actors(self, driver: subprocess.Popen[str], *titles: str) -> list[int]:
        """The processes of Ray that this driver uses, by the beginnings of their titles."""
        top = self._cluster or driver
        pids = processes.descendants(top.pid)
        return [pid for pid in pids if processes.title(pid).startswith(titles)]

    def lose_node(self) -> int:
        """kill -9 of the last node's raylet; another node joins. Returns the process id."""
        assert self._cluster is not None and self._cluster.stdin is not None
        pids = processes.descendants(self._cluster.pid)
        raylet = max(pid for pid in pids if processes.title(pid).endswith("raylet"))
        processes.send(raylet, signal.SIGKILL)
        self._cluster.stdin.write("add\n")
        self._cluster.stdin.flush()
        return raylet

    def fill_disk(self) -> None:
        """Leave not a byte free."""
        with self._filler().open("wb", buffering=0) as file:
            size = 1 << 20
            while size:
                try:
                    file.write(bytes(size))
                except OSError:
                    size //= 2

    def empty_disk(self) -> None:
        """Free what `fill_disk` took."""
        self._filler().unlink(missing_ok=True)

    def left(self) -> tuple[str, ...]:
        """The processes that are still there when all should have gone, the cluster's apart."""
        if self._cluster is not None:
            self._stop_cluster()
        pids = processes.wait_until_gone(str(self.folder), GONE_SECONDS)
        return tuple(f"{processes.title(pid)} ({pid})" for pid in pids)

    def copy_to(self, folder: Path) -> None:
        """Copy what the sweep and Ray wrote, to look into it."""
        with suppress(shutil.Error):  # files that went meanwhile
            shutil.copytree(self.folder, folder, ignore=_no_sockets, dirs_exist_ok=True)

    def _filler(self) -> Path:
        return self.storage / "filler"

    def _log(self, number: int) -> Path:
        return self.folder / f"log-{number}.txt"

    def _start_cluster(self) -> None:
        self._cluster = subprocess.Popen(
            [sys.executable, "-c", _CLUSTER, str(free_port())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "cluster.txt").open("w"),
            text=True,
            start_new_session=True,
            env=self._environment,
        )
        assert self._cluster.stdout is not None
        while not (found := re.match(r"address (\S+)", self._cluster.stdout.readline())):
            if self._cluster.poll() is not None:
                raise RuntimeError((self.folder / "cluster.txt").read_text()[-2000:])
        self._environment["RAY_ADDRESS"] = found[1]

    def _stop_cluster(self) -> None:
        assert self._cluster is not None
        processes.kill([self._cluster.pid, *processes.descendants(self._cluster.pid)])
        self._cluster.wait()


def _no_sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_socket() or name == "filler"]


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
