"""The child that runs one untrusted program. Used by `runner` only.

Beneath the operating system's limits an audit hook refuses what no solution needs: processes,
network, deleting, writing. The hook stops accidents and lazy tricks, not an attacker: that is
what the bubblewrap level is for.
"""

from __future__ import annotations

import ast
import os
import resource
import signal
import stat
import sys
import time
import types
from pathlib import Path
from typing import Any, NoReturn

from evaluators._sandbox.wire import Wire

NOBODY = 65534
CHANNEL = 3
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


def run(channel: int, timeout: float, memory_mb: int) -> NoReturn:
    """Confine this process, run the program that arrives and answer what its judge asks."""
    # Bound now: the program may replace anything it can reach by name.
    leave = os._exit
    try:
        os.dup2(channel, CHANNEL)
        wire = Wire(CHANNEL, time.monotonic() + 1e9, 2**32)
        _confine(timeout, memory_mb)
        _serve(wire, wire.receive())
    finally:
        leave(0)


def _serve(wire: Wire, job: dict[str, Any]) -> None:
    """Run the program, say what it defines, then do what is asked until the other end hangs up."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    requests: list[Any] = []
    try:
        exec(compile(job["source"], "<program>", "exec"), module.__dict__)
        _import_as_tests_do(job["setup"], module)
        defined = vars(module).items() if job["names"] else ()
        answer = ["value", {name: each for name, each in defined if not name.startswith("__")}]
    except BaseException as error:
        answer = ["error", type(error).__name__]
    while True:
        try:
            wire.send(answer)
        except BaseException as error:
            wire.send(["error", type(error).__name__])
        requests = wire.receive()
        try:
            answer = ["value", _done(wire, requests)]
        except BaseException as error:
            answer = ["error", type(error).__name__]


def _done(wire: Wire, request: list[Any]) -> Any:
    """What one request asks for."""
    what, *values = request
    match what:
        case "call":
            function, args, kwargs = values
            return function(*args, **kwargs)
        case "get":
            return getattr(*values)
        case "set":
            return setattr(*values)
        case "items":
            return list(values[0])
        case "truth":
            return bool(values[0])
        case "end":
            return values[0]
    raise ValueError(what)


def _import_as_tests_do(setup: str, module: types.ModuleType) -> None:
    """Run the imports of the tests' setup: some released solutions rely on them."""
    kinds = (ast.Import, ast.ImportFrom)
    lines = [node for node in ast.parse(setup).body if isinstance(node, kinds)]
    exec(compile(ast.Module(body=list(lines), type_ignores=[]), "<setup>", "exec"), vars(module))


def _confine(timeout: float, memory_mb: int) -> None:
    """Give up files, privileges, memory, time and new processes, in this order."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.closerange(CHANNEL + 1, 4096)
    roots = _readable_roots()
    if _may_drop():
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    bounds = {
        resource.RLIMIT_AS: memory_mb * 2**20,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: int(timeout) + 2,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_NPROC: 0,
    }
    for kind, bound in bounds.items():
        resource.setrlimit(kind, (bound, bound))
    sys.argv = [""]
    sys.addaudithook(_guard(roots))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, timeout)


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
