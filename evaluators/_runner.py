"""Runs untrusted programs, each in a limited child. Started by `sandbox`, never imported.

Reads one JSON request on stdin and writes one JSON list of [passed, reason] on stdout. Standard
library only: it runs with `-I -S`, an empty environment and a small address space, so that a
fork costs about a millisecond and a memory limit means what it says.

A child proves that its program ran to the end with a nonce that it is given only then; exit
codes and output prove nothing. (A program written against this file could still imitate the
exchange, for its tests run in its own process.) Beneath the operating system's limits an audit
hook refuses what no solution needs: processes, network, deleting, writing. The hook stops
accidents and lazy tricks, not an attacker: that is what the bubblewrap level is for.
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
from typing import Any, NamedTuple, NoReturn

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


class Limits(NamedTuple):
    """What bounds a program: CPU seconds, MiB of address space, readable folders.

    `drop`: whether a root process gives up its privileges.
    """

    timeout: float
    memory_mb: int
    roots: tuple[str, ...]
    drop: bool


def main() -> None:
    """Answer the request on stdin."""
    request = json.load(sys.stdin)
    for name in COMMON:
        importlib.import_module(name)
    limits = Limits(request["timeout"], request["memory_mb"], _readable_roots(), _may_drop())
    gc.freeze()
    results = [run(source, limits) for source in request["programs"]]
    json.dump(results, sys.stdout)


def run(source: str, limits: Limits) -> tuple[bool, str]:
    """Run one program in a fresh child and folder; (passed, reason)."""
    folder = tempfile.mkdtemp(dir=".")
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    from_child, to_runner = os.pipe()
    from_runner, to_child = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(source, folder, limits, from_runner, to_runner)
    os.close(to_runner)
    os.close(from_runner)
    try:
        # CPU time decides, so that a busy machine fails no program; wall time ends sleepers.
        deadline = time.monotonic() + 3 * limits.timeout + 2
        proved, said = _listen(from_child, to_child, deadline)
    finally:
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(from_child)
        os.close(to_child)
        shutil.rmtree(folder, ignore_errors=True)
    return (True, "passed") if proved else (False, _why_not(said, status))


def _listen(from_child: int, to_child: int, deadline: float) -> tuple[bool, bytes | None]:
    """Whether the child returned the nonce, and what it said last (None: nothing in time)."""
    nonce = secrets.token_bytes(16)
    said = _read(from_child, deadline)
    if said != DONE:
        return False, said
    os.write(to_child, nonce)
    said = _read(from_child, deadline)
    return said == nonce, said


def _read(pipe: int, deadline: float) -> bytes | None:
    ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
    return os.read(pipe, 4096) if ready else None


def _why_not(said: bytes | None, status: int) -> str:
    """Why a program failed, from its last words and the status of its process."""
    if said is None:
        return "timeout"
    if said.startswith(b"failed: "):
        return said[8:].decode(errors="replace")[:200]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGXCPU):
        return "timeout"
    return "ended before its tests did"


def _child(source: str, folder: str, limits: Limits, from_runner: int, to_runner: int) -> NoReturn:
    """Confine this process, run the program and report; never returns."""
    # Bound now: the program may replace anything it can reach by name.
    write, read, leave = os.write, os.read, os._exit
    try:
        _confine(folder, limits, {from_runner, to_runner})
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        exec(compile(source, "<program>", "exec"), module.__dict__)
        write(to_runner, DONE)
        write(to_runner, read(from_runner, 16))
    except BaseException as error:
        write(to_runner, b"failed: " + type(error).__name__.encode())
    finally:
        leave(0)


def _confine(folder: str, limits: Limits, keep: set[int]) -> None:
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
    if limits.drop:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    bounds = {
        resource.RLIMIT_AS: limits.memory_mb * 2**20,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: int(limits.timeout) + 2,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_NPROC: 0,
    }
    for kind, bound in bounds.items():
        resource.setrlimit(kind, (bound, bound))
    sys.argv = [""]
    sys.addaudithook(_guard((*limits.roots, f"{Path.cwd()}/")))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, limits.timeout)


def _may_drop() -> bool:
    """Whether this is root and any user can read the standard library.

    Where only root can, dropping privileges would break the programs' imports.
    """
    library = Path(os.__file__).resolve()
    readable = bool(library.stat().st_mode & stat.S_IROTH)
    reachable = all(folder.stat().st_mode & stat.S_IXOTH for folder in library.parents)
    return os.geteuid() == 0 and readable and reachable


def _readable_roots() -> tuple[str, ...]:
    """The folders of the standard library, each ending in a slash."""
    folders = (Path(sys.base_prefix), Path(sys.base_exec_prefix), Path(os.__file__).parent)
    return tuple(dict.fromkeys(f"{folder.resolve()}/" for folder in folders))


def _guard(roots: tuple[str, ...]) -> Any:
    """An audit hook that lets a program read below `roots` and nothing else."""
    real = os.path.realpath
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
