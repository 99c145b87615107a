"""`cluster-local.yaml` on the hosts of one machine: a head, workers, and a laptop that submits."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.hosts import Host, Hosts

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = "http://127.0.0.1:8265"


class LocalCluster:
    """The shipped file with this lab's addresses, brought up by `ray up` over SSH."""

    def __init__(
        self, hosts: Hosts, cpus_per_worker: int, environment: Mapping[str, str] | None = None
    ) -> None:
        """``environment``: of every node's `ray start`."""
        self.hosts, self.cpus = hosts, cpus_per_worker
        self._environment = environment or {}
        self.head, self.laptop = hosts["head"], hosts["laptop"]
        self.workers = [host for name, host in hosts.hosts.items() if name.startswith("worker")]
        self.mlflow = f"http://{self.head.address}:5000"

    def up(self) -> None:
        """`ray up` from the laptop, then the SSH tunnel to the dashboard."""
        for host in self.hosts.hosts.values():
            _give_environment(host)
        (self.laptop.home / "cluster-local.yaml").write_text(yaml.safe_dump(self._config()))
        self.laptop.run("ray get-auth-token --generate")
        # From the repository, whose files the cluster's file names.
        self._at_root("ray up -y --no-config-cache ~/cluster-local.yaml", timeout=600)
        self.tunnel = self.laptop.start(
            "exec ssh -o StrictHostKeyChecking=no -N -L 8265:127.0.0.1:8265 "
            f"-L 5000:{self.head.address}:5000 root@{self.head.address}",
            "tunnel.log",
        )
        self.wait_for_nodes(1 + len(self.workers))

    def down(self) -> None:
        """`ray down` from the laptop, and MLflow's server, which is not Ray's."""
        self.tunnel.kill()
        self.tunnel.wait()
        self._at_root(
            "ray exec ~/cluster-local.yaml 'bash ~/gmt-sweep/mlflow_server.sh stop'; "
            "ray down -y ~/cluster-local.yaml",
            timeout=180,
        )

    def submit(self, *arguments: str, **options: str) -> str:
        """`ray job submit` from the laptop; returns the submission's id and does not wait."""
        entry = shlex.join(["python", *arguments])
        more = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items())
        said = self._at_root(
            f"ray job submit --address {DASHBOARD} --no-wait --working-dir . {more} -- {entry}"
        ).stdout
        found = re.search(r"Job '(raysubmit_\w+)' submitted", said)
        assert found, said
        return found[1]

    def run_script(self, script: str, *arguments: str, timeout: float) -> str:
        """`ray submit` from the laptop, to the script's end; returns what it printed."""
        line = shlex.join([script, *arguments])
        return self._at_root(f"ray submit ~/cluster-local.yaml {line}", timeout=timeout).stdout

    def status(self, job: str) -> str:
        """The job's state: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
        return str(self.ask(f"api/jobs/{job}").get("status", ""))

    def logs(self, job: str) -> str:
        """What the job printed so far."""
        return str(self.ask(f"api/jobs/{job}/logs").get("logs", ""))

    def stop(self, job: str) -> None:
        """`ray job stop`: the driver is asked to end."""
        self._at_root(f"ray job stop --address {DASHBOARD} --no-wait {job}")

    def ask(self, page: str) -> dict[str, Any]:
        """A page of the dashboard as the laptop reads it through its tunnel; {} without one."""
        token = (self.laptop.home / ".ray" / "auth_token").read_text().strip()
        header = f"Authorization: Bearer {token}"
        said = self.laptop.run(f"curl -s -m 10 -H '{header}' '{DASHBOARD}/{page}'", check=False)
        try:
            found: dict[str, Any] = json.loads(said.stdout)
        except ValueError:
            return {}
        return found

    def finish(self, job: str, seconds: float) -> str:
        """Wait for the job's end; returns what it printed. Raises when it did not succeed."""
        end = time.monotonic() + seconds
        while (state := self.status(job)) not in ("SUCCEEDED", "FAILED", "STOPPED"):
            if time.monotonic() > end:
                raise TimeoutError(f"job is {state}:\n{self.logs(job)[-3000:]}")
            time.sleep(1)
        logs = self.logs(job)
        assert state == "SUCCEEDED", logs[-4000:]
        return logs

    def wait_for_nodes(self, count: int, seconds: float = 300) -> None:
        """Until Ray counts so many living nodes."""
        end = time.monotonic() + seconds
        while (found := self.nodes()) != count:
            if time.monotonic() > end:
                raise TimeoutError(f"{found} nodes, expected {count}\n{self.monitor()}")
            time.sleep(1)

    def monitor(self) -> str:
        """The end of what the cluster's autoscaler says, which starts the workers over SSH."""
        logs = "/tmp/ray/session_latest/logs/monitor"
        return self.head.run(f"tail -n 40 {logs}.out; tail -n 20 {logs}.log", check=False).stdout

    def nodes(self) -> int:
        """How many nodes are alive."""
        summary = self.ask("nodes?view=summary").get("data", {}).get("summary", [])
        return sum(node["raylet"].get("state") == "ALIVE" for node in summary)

    def _at_root(self, line: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        environment = "export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0"
        return self.laptop.run(f"{environment}; cd {ROOT}; {line}", timeout=timeout)

    def _config(self) -> dict[str, Any]:
        config = yaml.safe_load((ROOT / "cluster-local.yaml").read_text(encoding="utf-8"))
        config["provider"] |= {
            "head_ip": self.head.address,
            "worker_ips": [host.address for host in self.workers],
        }
        config["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"}
        small = "ray start --object-store-memory=100000000"
        for kind, cpus in (("head", ""), ("worker", f" --num-cpus={self.cpus}")):
            key = f"{kind}_start_ray_commands"
            lines = [line.replace("ray start", small + cpus) for line in config[key]]
            given = "".join(f"export {k}={v}; " for k, v in self._environment.items())
            config[key] = [given + _patient(line) for line in lines]
        text = json.dumps(config["head_setup_commands"])
        config["head_setup_commands"] = json.loads(text.replace("/shared", str(self.hosts.shared)))
        return config


def _patient(line: str) -> str:
    """Started again if need be: Ray gives a node 30 s, and one machine plays all of them here."""
    return line if "ray start" not in line else f"{line} || (ray stop --force; {line})"


def _give_environment(host: Host) -> None:
    """This Python's packages as the host's ~/env, marked as installed, for there is no network."""
    env = host.home / "env"
    env.mkdir()
    for part in ("bin", "lib"):
        (env / part).symlink_to(Path(sys.prefix) / part)
    pyvenv = Path(sys.prefix) / "pyvenv.cfg"
    if pyvenv.exists():
        (env / "pyvenv.cfg").write_text(pyvenv.read_text())
    pinned = (ROOT / "pyproject.toml").read_bytes() + (ROOT / "constraints.txt").read_bytes()
    (env / ".installed").write_text(hashlib.sha256(pinned).hexdigest() + "\n")
