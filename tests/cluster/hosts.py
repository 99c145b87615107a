"""Several hosts on one Linux machine: each with its own address, processes, home, /tmp and sshd.

A host is a set of namespaces (network, processes, mounts, name) on one bridge. Nothing outside is
touched, and all of it dies with the process that made it. Needs root, openssh-server, iproute2 and
rsync. By hand, until Ctrl-C:

    python tests/cluster/hosts.py
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

PROGRAMS = ("unshare", "nsenter", "setpriv", "ip", "sshd", "ssh", "ssh-keygen", "rsync")
NETWORK = "10.77.0"
_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
_OWN_NAMESPACES = shlex.split("unshare --net --pid --fork --mount --uts --mount-proc --kill-child")
_SSHD = """
Port 22
HostKey {lab}/host_key
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
AuthorizedKeysFile .ssh/authorized_keys
"""
# Run as the first process of a host: hide the machine's /tmp and homes, then serve SSH.
_INIT = """
set -e
mount --make-rprivate /
hostname {name}
mount --bind {lab}/passwd /etc/passwd
mount --bind {own}/home {lab}/home
for path in {kept}; do
    mkdir -p {own}/tmp"${{path#/tmp}}"
    mount --rbind "$path" {own}/tmp"${{path#/tmp}}"
done
mount --rbind {own}/tmp /tmp
mount -t tmpfs -o size=2g tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd
cd /
ip link set lo up
until ip link show eth0 > /dev/null 2>&1; do sleep 0.02; done
ip addr add {address}/24 dev eth0
ip link set eth0 up
# Nobody answers there, but Ray takes the address of the default route for the host's own.
ip route add default via {address}
exec $(command -v sshd) -D -e -f {lab}/sshd_config
"""


def missing_programs() -> list[str]:
    """What is not installed of that which hosts are made of."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class Host:
    """One host; `address` is its own, `home` and `tmp` are where this machine sees its folders."""

    def __init__(self, lab: Path, name: str, address: str, kept: Sequence[Path]) -> None:
        self.lab, self.name, self.address = lab, name, address
        self.own = lab / "hosts" / name
        self.home, self.tmp = self.own / "home", self.own / "tmp"
        self._kept = kept
        self._init: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def up(self, switch: int) -> None:
        """Create the namespaces, wire them to the bridge in the namespace of process `switch`."""
        for folder in (self.home / ".ssh", self.tmp):
            folder.mkdir(parents=True, exist_ok=True)
        self.tmp.chmod(0o1777)
        for key in ("id_ed25519", "authorized_keys"):
            shutil.copy(self.lab / key, self.home / ".ssh" / key)
        (self.home / ".ssh" / "authorized_keys").chmod(0o600)
        (self.home / ".bashrc").touch()
        kept = [str(path) for path in self._kept if path.is_relative_to("/tmp")]
        script = _INIT.format(
            lab=self.lab, own=self.own, name=self.name, address=self.address, kept=shlex.join(kept)
        )
        with (self.own / "sshd.log").open("ab") as log:
            self._init = subprocess.Popen(
                [*_DIES_WITH_US, *_OWN_NAMESPACES, "bash", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._pid = _only_child(self._init.pid)
        port = self._port
        _in_network(switch, f"ip link add {port} type veth peer name eth0 netns {self._pid}")
        _in_network(switch, f"ip link set {port} master br0 up")

    @property
    def _port(self) -> str:
        return f"v{self.address.rpartition('.')[2]}"

    def wait(self, seconds: float = 20) -> None:
        """Until its sshd answers."""
        end = time.monotonic() + seconds
        while self.run("exec 3<>/dev/tcp/127.0.0.1/22", check=False).returncode:
            if time.monotonic() > end:
                raise TimeoutError((self.own / "sshd.log").read_text()[-500:])
            time.sleep(0.1)

    def command(self, line: str) -> list[str]:
        """What runs a shell command on this host, as its user would at a console."""
        enter = ["nsenter", "-t", str(self._pid), "--net", "--pid", "--mount", "--uts"]
        home = str(self.lab / "home")
        clean = ["env", "-i", f"HOME={home}", "USER=root", "LANG=C.UTF-8", f"PATH={_path()}"]
        return [*enter, *clean, "bash", "-c", f"cd; {line}"]

    def run(
        self, line: str, *, check: bool = True, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command on this host and wait for it."""
        done = subprocess.run(
            self.command(line),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode:
            raise RuntimeError(
                f"{self.name}: {line}: exit {done.returncode}\n"
                f"{done.stdout[-2000:]}{done.stderr[-3000:]}"
            )
        return done

    def start(self, line: str, log: str) -> subprocess.Popen[bytes]:
        """Start a shell command on this host; its output goes to a file of the host's folder."""
        with (self.own / log).open("ab") as out:
            return subprocess.Popen(
                self.command(line), stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    def kill(self) -> None:
        """Power off: every process of the host is gone at once, and its address with it."""
        if self._init is not None and self._init.poll() is None:
            os.kill(self._pid, signal.SIGKILL)
            self._init.wait(10)

    def cut(self) -> None:
        """Pull the network cable; the processes go on."""
        self.run("ip link set eth0 down")

    def mend(self) -> None:
        """Put the cable back."""
        self.run(f"ip link set eth0 up; ip route replace default via {self.address}")


class Hosts:
    """Named hosts on one network, and a folder that all of them share (`shared`)."""

    def __init__(self, *names: str, kept: Sequence[Path] = ()) -> None:
        """`kept`: folders of this machine's /tmp that the hosts see, with Python's own."""
        self.lab = Path(tempfile.mkdtemp(prefix="hosts-", dir="/var/tmp"))
        self.shared = self.lab / "shared"
        python = (Path(sys.prefix), Path(sys.base_prefix))
        self.hosts = {
            name: Host(self.lab, name, f"{NETWORK}.{number}", [*python, *kept])
            for number, name in enumerate(names, start=1)
        }

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __enter__(self) -> Self:
        for folder in (self.shared, self.lab / "home"):
            folder.mkdir()
        for key in ("id_ed25519", "host_key"):
            _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.lab / key)])
        shutil.copy(self.lab / "id_ed25519.pub", self.lab / "authorized_keys")
        (self.lab / "sshd_config").write_text(_SSHD.format(lab=self.lab))
        users = Path("/etc/passwd").read_text().splitlines()
        root = f"root:x:0:0:root:{self.lab}/home:/bin/bash"
        others = [line for line in users if not line.startswith("root:")]
        (self.lab / "passwd").write_text("\n".join([root, *others]) + "\n")
        self._switch = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]
        )
        _until_own_network(self._switch.pid)
        _in_network(self._switch.pid, "ip link add br0 type bridge")
        _in_network(self._switch.pid, "ip link set br0 up")
        try:
            for host in self.hosts.values():
                host.up(self._switch.pid)
            for host in self.hosts.values():
                host.wait()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def restart(self, name: str) -> Host:
        """Power a host on again: its disk is as it was."""
        host = self.hosts[name]
        host.kill()
        host.up(self._switch.pid)
        host.wait()
        return host

    def down(self) -> None:
        """End every process of every host and remove what they wrote."""
        for host in self.hosts.values():
            host.kill()
        self._switch.kill()
        self._switch.wait()
        shutil.rmtree(self.lab, ignore_errors=True)


def _path() -> str:
    """Where a host finds its programs: this Python's, then the system's."""
    system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return f"{Path(sys.executable).parent}:{system}"


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=30)


def _in_network(pid: int, line: str) -> None:
    _run(["nsenter", "-t", str(pid), "--net", *shlex.split(line)])


def _only_child(pid: int) -> int:
    """The process that `unshare --fork` started, the first of its namespaces."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if found := children.read_text().split():
            return int(found[0])
        time.sleep(0.01)
    raise TimeoutError("unshare started nothing")


def _until_own_network(pid: int) -> None:
    ours = Path("/proc/self/ns/net").readlink()
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}/ns/net").readlink() == ours:
        if time.monotonic() > end:
            raise TimeoutError("no network namespace of its own")
        time.sleep(0.01)


def main() -> None:
    """Bring up a head, two workers and a laptop; take them down at Ctrl-C."""
    if missing := missing_programs():
        sys.exit(f"not installed: {', '.join(missing)}")
    with Hosts("head", "worker-1", "worker-2", "laptop") as hosts:
        for name, host in hosts.hosts.items():
            print(f"{name} {host.address}: {shlex.join(host.command('exec bash'))}")
        print(f"all share {hosts.shared}; Ctrl-C ends everything", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("down")


if __name__ == "__main__":
    main()
