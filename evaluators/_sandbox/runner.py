"""Runs untrusted programs in limited children and judges them. Started by `sandbox` only.

Reads jobs, one JSON object a line, on stdin; answers each with a line [passed, reason]. Standard
library only: it runs with `-I -S`, an empty environment and a small address space, so that a
fork costs about a millisecond and a memory limit means what it says.

Two processes. The judge (this one) runs the tests. The keeper, forked before the first job came,
forks one child per program and has never seen a test. Where a test calls the program, the judge
asks the child over a socket and gets plain data back (`wire`), so that neither objects with an
`__eq__` of their own nor expected values cross; whatever the child does to its builtins, frames,
pipes or to itself can only make its answers wrong. A program without tests passes when it says,
by a nonce it is given at its end, that it ran to the end: that is a promise, no proof. So does
one whose tests run inside it.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import importlib
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, final

from evaluators._sandbox import confined
from evaluators._sandbox.wire import PERIOD, Failure, Handle, Wire, WireError

PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
# Loaded before the fork, so that no program pays for them (or needs the right to read them).
COMMON = (
    *("array", "bisect", "calendar", "cmath", "collections", "copy", "dataclasses", "datetime"),
    *("decimal", "enum", "fractions", "functools", "heapq", "itertools", "math", "operator"),
    *("random", "re", "statistics", "string", "sys", "textwrap", "typing"),
)


def main() -> None:
    """Answer the jobs on stdin until it ends. Its last argument: JSON, paths by package."""
    packages: dict[str, list[str]] = json.loads(sys.argv[-1])
    for name in COMMON:
        importlib.import_module(name)
    keeper = _start_keeper(packages)
    # From here on no process of the same user may look into this one, and orphans come here.
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _answer("ready")
    for line in sys.stdin:
        job = json.loads(line)
        text = "\n".join([job["source"], job["setup"], *job["tests"]])
        named = [name for name in packages if name in text]
        _answer(_judged(job, keeper, named))


def _answer(message: object) -> None:
    sys.__stdout__.write(json.dumps(message) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def _start_keeper(packages: dict[str, list[str]]) -> socket.socket:
    """Fork the keeper; the judge's end of the socket that commands it."""
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        mine.close()
        try:
            os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
            sys.meta_path.append(_Packages(packages))
            _keep(its, [path for paths in packages.values() for path in paths])
        finally:
            os._exit(0)
    its.close()
    return mine


@final
class _Packages:
    """Finds the packages that programs may import, and no other of the same folder."""

    def __init__(self, paths: dict[str, list[str]]) -> None:
        # Found now: no program may list the folder they are in.
        self._found = {
            name: PathFinder.find_spec(name, [str(Path(places[0]).parent)])
            for name, places in paths.items()
        }

    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        """The specification of a package; its modules are found through its path."""
        return self._found.get(name)


def _keep(control: socket.socket, readable: Sequence[str]) -> None:
    """Fork a child for each socket that arrives; end and reap it at the next message."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    while True:
        message, passed, _, _ = socket.recv_fds(control, 4096, 1)
        if not message:
            return
        timeout, memory_mb = struct.unpack_from("di", message)
        # Imported here, a package costs its time once, and none of it is a program's.
        for name in message[struct.calcsize("di") :].decode().split():
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        pid = os.fork()
        if pid == 0:
            confined.run(passed[0], timeout, memory_mb, readable)
        os.close(passed[0])
        control.send(struct.pack("i", pid))
        control.recv(64)
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        control.send(struct.pack("i", status))


def _judged(job: dict[str, Any], keeper: socket.socket, packages: list[str]) -> tuple[bool, str]:
    """(passed, reason) of one job."""
    ours, theirs = socket.socketpair()
    limits = struct.pack("di", job["timeout"], job["memory_mb"])
    socket.send_fds(keeper, [limits, " ".join(packages).encode()], [theirs.fileno()])
    theirs.close()
    (pid,) = struct.unpack("i", keeper.recv(64))
    # What was decoded takes about eight times the memory of the text.
    wire = Wire(ours, job["memory_mb"] * 2**20 // 8, _Sleep(pid, job["timeout"]))
    reason, passed = "passed", False
    texts = {f"<test {number}>": text for number, text in enumerate(job["tests"], 1)}
    try:
        _test(job, wire, texts)
        passed = True
    except (Failure, WireError) as failure:
        reason = str(failure)
    except BaseException as error:
        reason = confined.described(error, texts)
    ours.close()
    keeper.send(b"end")
    (status,) = struct.unpack("i", keeper.recv(64))
    _end_orphans()
    timed_out = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGXCPU)
    if reason == WireError.GONE and timed_out:
        reason = WireError.LATE
    return passed, reason


def _test(job: dict[str, Any], wire: Wire, texts: dict[str, str]) -> None:
    """Run the job's tests; raises unless all pass."""
    nonce = os.urandom(16).hex()
    inside = job["tests"] if job["inside"] else []
    outside = bool(job["tests"]) and not inside
    wire.send({"source": job["source"], "setup": job["setup"], "inside": inside, "names": outside})
    defined = wire.answer()
    if not outside:
        wire.ask("end", nonce)
        return
    namespace: dict[str, Any] = {"__name__": confined.NAME, "__builtins__": builtins}
    with contextlib.suppress(Exception):
        exec(compile(job["context"], "<task>", "exec"), namespace)
    for name, value in defined.items():
        module = getattr(value, "_module", "") if isinstance(value, Handle) else ""
        if name in job["entry_points"]:
            namespace[name] = value
        elif name in namespace or hasattr(builtins, name):
            continue
        elif module in COMMON:  # the judge's own one, in which nothing can be changed
            namespace[name] = importlib.import_module(module)
        elif not job["entry_points"]:
            namespace[name] = value
    for name in set(job["entry_points"]) - set(defined):
        namespace.pop(name, None)
    for name, text in {"<setup>": job["setup"], **texts}.items():
        exec(compile(text, name, "exec"), namespace)


@final
class _Sleep:
    """Whether a process has slept for `limit` seconds, asked in every `PERIOD`.

    Time in which a thread of it runs, waits for a CPU or for a disk does not count, so that a
    busy machine fails no program.
    """

    def __init__(self, pid: int, limit: float) -> None:
        self._process = Path(f"/proc/{pid}")
        self._left = limit
        self._ticks = 0

    def __call__(self) -> bool:
        try:
            threads = [_words(task) for task in (self._process / "task").iterdir()]
            words = _words(self._process)
        except OSError:
            return False  # it has just ended
        before, self._ticks = self._ticks, int(words[11]) + int(words[12])
        if all(each[0] not in "RD" for each in threads):
            used = (self._ticks - before) / os.sysconf("SC_CLK_TCK")
            self._left -= max(0.0, PERIOD - used)
        return self._left <= 0


def _words(task: Path) -> list[str]:
    """The state of a process or thread, and the numbers that follow it."""
    return (task / "stat").read_text().rpartition(")")[2].split()


def _end_orphans() -> None:
    """Kill and reap whatever a child left behind; the first child, the keeper, stays."""
    listing = Path(f"/proc/self/task/{os.getpid()}/children")
    for _ in range(100):
        try:
            pids = [int(pid) for pid in listing.read_text().split()][1:]
        except OSError:
            return
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
