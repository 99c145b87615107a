"""Runs untrusted programs in limited children and judges them. Started by `sandbox` only.

Reads jobs, one JSON object a line, on stdin; answers each with a line [passed, reason]. Standard
library only: it runs with `-I -S`, an empty environment and a small address space, so that a
fork costs about a millisecond and a memory limit means what it says.

Two processes. The judge (this one) runs the tests. The keeper, forked before the first job came,
forks one child per program and has never seen a test. Where a test calls the program, the judge
asks the child over a socket and gets plain data back (`wire`), so that neither objects with an
`__eq__` of their own nor expected values cross; whatever the child does to its builtins, frames,
pipes or to itself can only make its answers wrong. A program without tests passes when it says,
by a nonce it is given at its end, that it ran to the end: that is a promise, no proof.
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
import time
from pathlib import Path
from typing import Any

from evaluators._sandbox import confined
from evaluators._sandbox.wire import Failure, Handle, Wire, WireError

PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
# Loaded before the fork, so that no program pays for them (or needs the right to read them).
COMMON = (
    *("array", "bisect", "calendar", "cmath", "collections", "copy", "dataclasses", "datetime"),
    *("decimal", "enum", "fractions", "functools", "heapq", "itertools", "math", "operator"),
    *("random", "re", "statistics", "string", "sys", "textwrap", "typing"),
)


def main() -> None:
    """Answer the jobs on stdin until it ends."""
    for name in COMMON:
        importlib.import_module(name)
    keeper = _start_keeper()
    # From here on no process of the same user may look into this one, and orphans come here.
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _answer("ready")
    for line in sys.stdin:
        _answer(_judged(json.loads(line), keeper))


def _answer(message: object) -> None:
    sys.__stdout__.write(json.dumps(message) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def _start_keeper() -> socket.socket:
    """Fork the keeper; the judge's end of the socket that commands it."""
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        mine.close()
        try:
            _keep(its)
        finally:
            os._exit(0)
    its.close()
    return mine


def _keep(control: socket.socket) -> None:
    """Fork a child for each socket that arrives; end and reap it at the next message."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    while True:
        message, passed, _, _ = socket.recv_fds(control, 64, 1)
        if not message:
            return
        timeout, memory_mb = struct.unpack("di", message)
        pid = os.fork()
        if pid == 0:
            confined.run(passed[0], timeout, memory_mb)
        os.close(passed[0])
        control.send(struct.pack("i", pid))
        control.recv(64)
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        control.send(struct.pack("i", status))


def _judged(job: dict[str, Any], keeper: socket.socket) -> tuple[bool, str]:
    """(passed, reason) of one job."""
    ours, theirs = socket.socketpair()
    socket.send_fds(
        keeper, [struct.pack("di", job["timeout"], job["memory_mb"])], [theirs.fileno()]
    )
    theirs.close()
    (pid,) = struct.unpack("i", keeper.recv(64))
    # CPU time decides; wall time ends sleepers, and `sandbox` asks about those a second time.
    deadline = time.monotonic() + 3 * job["timeout"] + 2
    # What was decoded takes about eight times the memory of the text.
    wire = Wire(ours, deadline, job["memory_mb"] * 2**20 // 8, _Busy(pid))
    reason = "passed"
    try:
        _test(job, wire)
    except Failure as failure:
        reason = str(failure)
    except WireError as error:
        reason = str(error)
    except BaseException as error:
        reason = type(error).__name__
    ours.close()
    keeper.send(b"end")
    (status,) = struct.unpack("i", keeper.recv(64))
    _end_orphans()
    timed_out = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGXCPU)
    if reason == WireError.GONE and timed_out:
        reason = WireError.LATE
    return reason == "passed", reason


def _test(job: dict[str, Any], wire: Wire) -> None:
    """Run the job's tests; raises unless all pass."""
    nonce = os.urandom(16).hex()
    wire.send({**{key: job[key] for key in ("source", "setup")}, "names": bool(job["tests"])})
    defined = wire.answer()
    if not job["tests"]:
        wire.ask("end", nonce)
        return
    namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
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
    for text in (job["setup"], *job["tests"]):
        exec(compile(text, "<test>", "exec"), namespace)


class _Busy:
    """Whether a process wants the CPU: it would run now, or used a tenth of a second of CPU time
    since it was last asked about.
    """

    def __init__(self, pid: int) -> None:
        self._stat = Path(f"/proc/{pid}/stat")
        self._ticks = 0

    def __call__(self) -> bool:
        try:
            words = self._stat.read_text().rpartition(")")[2].split()
        except OSError:
            return False
        before, self._ticks = self._ticks, int(words[11]) + int(words[12])
        return words[0] in "RD" or self._ticks - before >= os.sysconf("SC_CLK_TCK") / 10


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
