"""Runs untrusted programs, each in a limited child. Started by `sandbox`, never imported.

Reads one JSON request on stdin and writes one JSON list of [passed, reason] on stdout. Standard
library only: it runs with `-I -S`, an empty environment and a small address space, so that a
fork costs about a millisecond and a memory limit means what it says.

A child proves that its program ran to the end with a nonce that it is given only then; exit
codes and output prove nothing. Beneath the operating system's limits an audit hook refuses what
no solution needs (processes, network, deleting, writing). The hook stops accidents and lazy
tricks, not an attacker: that is what the bubblewrap level is for.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import secrets
import select
import shutil
import signal
import stat
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any, NoReturn

NOBODY = 65534
DONE = b"done"
# Loaded before the fork, so that no program pays for them (or needs the right to read them).
COMMON = (
    *("array", "bisect", "calendar", "cmath", "collections", "copy", "dataclasses", "datetime"),
    *("decimal", "enum", "fractions", "functools", "heapq", "itertools", "math", "operator"),
    *("random", "re", "statistics", "string", "textwrap", "typing"),
)
REFUSED = (
    "ctypes.",
    "gc.",
    "os.chmod",
    "os.chown",
    "os.exec",
    "os.fork",
    "os.kill",
    "os.link",
    "os.mkdir",
    "os.posix_spawn",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.spawn",
    "os.symlink",
    "os.system",
    "os.truncate",
    "os.utime",
    "pty.",
    "shutil.",
    "socket.",
    "subprocess.",
)


def main() -> None:
    """Answer the request on stdin."""
    request = json.load(sys.stdin)
    for name in COMMON:
        importlib.import_module(name)
    gc.freeze()
    results = [
        run(source, request["timeout"], request["memory_mb"]) for source in request["programs"]
    ]
    json.dump(results, sys.stdout)


def run(source: str, timeout: float, memory_mb: int) -> tuple[bool, str]:
    """Run one program in a fresh child and folder; (passed, reason)."""
    folder = tempfile.mkdtemp(dir=".")
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    from_child, to_runner = os.pipe()
    from_runner, to_child = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(source, folder, timeout, memory_mb, from_runner, to_runner)
    os.close(to_runner)
    os.close(from_runner)
    try:
        # CPU time decides, so that a busy machine fails no program; wall time ends sleepers.
        said = _listen(from_child, to_child, time.monotonic() + 3 * timeout + 2)
    finally:
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(from_child)
        os.close(to_child)
        shutil.rmtree(folder, ignore_errors=True)
    return _verdict(said, status)


def _listen(from_child: int, to_child: int, deadline: float) -> bytes | None:
    """What the child said last; None when the deadline passed. b"passed" only for the nonce."""
    nonce = secrets.token_bytes(16)
    heard = _read(from_child, deadline)
    if heard != DONE:
        return heard
    os.write(to_child, nonce)
    return b"passed" if _read(from_child, deadline) == nonce else b"failed: no proof"


def _read(pipe: int, deadline: float) -> bytes | None:
    ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
    return os.read(pipe, 4096) if ready else None


def _verdict(said: bytes | None, status: int) -> tuple[bool, str]:
    if said is None:
        return False, "timeout"
    if said == b"passed":
        return True, "passed"
    if said.startswith(b"failed: "):
        return False, said[8:].decode(errors="replace")[:200]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGXCPU):
        return False, "timeout"
    return False, "ended before its tests did"


def _child(
    source: str, folder: str, timeout: float, memory_mb: int, from_runner: int, to_runner: int
) -> NoReturn:
    """Confine this process, run the program and report; never returns."""
    # Bound now: the program may replace anything it can reach by name.
    write, read, leave = os.write, os.read, os._exit
    try:
        _confine(folder, timeout, memory_mb, {from_runner, to_runner})
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        exec(compile(source, "<program>", "exec"), module.__dict__)
        write(to_runner, DONE)
        write(to_runner, read(from_runner, 16))
    except BaseException as error:
        write(to_runner, b"failed: " + type(error).__name__.encode())
    finally:
        leave(0)


def _confine(folder: str, timeout: float, memory_mb: int, keep: set[int]) -> None:
    """Give up files, privileges, memory, time and new processes, in this order."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    for number in range(3, 64):
        if number not in keep:
            with contextlib.suppress(OSError):
                os.close(number)
    os.chdir(folder)
    if os.geteuid() == 0 and _world_readable(Path(os.__file__)):
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    seconds = int(timeout) + 2
    limits = {
        resource.RLIMIT_AS: memory_mb * 2**20,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_NPROC: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    sys.argv = [""]
    sys.addaudithook(_guard())
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, timeout)


def _world_readable(path: Path) -> bool:
    """Whether any user can read `path`: else dropping privileges would break imports."""
    readable = path.stat().st_mode & stat.S_IROTH
    parents = path.resolve().parents
    return bool(readable) and all(folder.stat().st_mode & stat.S_IXOTH for folder in parents)


def _guard() -> Any:
    """An audit hook that lets a program read the standard library and nothing else."""
    real = os.path.realpath
    allowed = (sys.base_prefix, sys.base_exec_prefix, Path(os.__file__).parent, Path.cwd())
    roots = tuple(real(root) + "/" for root in allowed)
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def check(event: str, args: tuple[Any, ...]) -> None:
        if event.startswith(REFUSED):
            raise PermissionError(f"{event} is not allowed here")
        if event == "open" and not isinstance(args[0], int):
            path = real(os.fsdecode(args[0]))
            if path != os.devnull and (args[2] & writing or not path.startswith(roots)):
                raise PermissionError(f"opening {path} is not allowed here")

    return check


if __name__ == "__main__":
    main()
