"""The child that runs one untrusted program. Used by `runner` only.

The kernel limits it (see `kernel`). Above that, an audit hook refuses what no solution needs,
processes, network, deleting, writing, with an error that names it.
"""

from __future__ import annotations

import ast
import os
import resource
import signal
import stat
import sys
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from evaluators._sandbox import kernel
from evaluators._sandbox.wire import Wire

NOBODY = 65534
CHANNEL = 3
# The reference harnesses run a program by `exec`, so that its `__main__` part does not run.
NAME = "program"
LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/etc/ld.so.cache")
TIME_ZONES = "/usr/share/zoneinfo/"
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
    "signal.pidfd_send_signal",
    "socket.",
    "sqlite3.",
    "subprocess.",
)


def run(channel: int, timeout: float, memory_mb: int, packages: Sequence[str]) -> NoReturn:
    """Confine this process, run the program that arrives and answer what its judge asks.

    `packages` are the files and folders of packages that it may read.
    """
    # Bound now: the program may replace anything it can reach by name.
    leave = os._exit
    try:
        os.dup2(channel, CHANNEL)
        wire = Wire(CHANNEL, 2**32)
        _confine(timeout, memory_mb, packages)
        _serve(wire, wire.receive())
    finally:
        leave(0)


def _serve(wire: Wire, job: dict[str, Any]) -> None:
    """Run the program, say what it defines, then do what is asked until the other end hangs up."""
    module = types.ModuleType(NAME)
    sys.modules[NAME] = sys.modules["__main__"] = module
    texts = {"<program>": job["source"], "<setup>": job["setup"]}
    if not job["inside"]:
        texts["<setup>"] = _imports(job["setup"])
    texts |= {f"<test {number}>": text for number, text in enumerate(job["inside"], 1)}
    try:
        for name, text in texts.items():
            exec(compile(text, name, "exec"), vars(module))
        defined = vars(module).items() if job["names"] else ()
        answer: list[Any] = [
            "value",
            {name: each for name, each in defined if not name.startswith("__")},
        ]
    except BaseException as error:
        answer = ["failed", described(error, texts)]
    while True:
        try:
            wire.send(answer)
        except BaseException as error:
            wire.send(_raised(error))
        request = wire.receive()
        try:
            answer = ["value", _done(request)]
        except BaseException as error:
            answer = _raised(error)


def described(error: BaseException, texts: Mapping[str, str]) -> str:
    """`error` in one phrase, with the line of the `texts` (by file name) that it came from."""
    try:
        said = f"{type(error).__name__}: {error}".removesuffix(": ").split("\n", 1)[0][:150]
    except Exception:
        said = type(error).__name__
    frames = traceback.walk_tb(error.__traceback__)
    places = [(frame.f_code.co_filename, line) for frame, line in frames]
    lines = [texts[name].splitlines()[line - 1] for name, line in places if name in texts]
    return f"{said} in {lines[-1].strip()[:150]!r}" if lines else said


def _raised(error: BaseException) -> list[str]:
    """What crosses of an exception: its nearest builtin class, and its message."""
    kind = next(each for each in type(error).__mro__ if each.__module__ == "builtins")
    try:
        message = error.args[0] if [type(each) for each in error.args] == [str] else str(error)
    except Exception:
        message = ""
    return ["error", kind.__name__, message[:1000]]


def _done(request: list[Any]) -> Any:
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


def _imports(setup: str) -> str:
    """The imports of the tests' setup: some released solutions rely on them."""
    kinds = (ast.Import, ast.ImportFrom)
    return "\n".join(
        ast.unparse(each) for each in ast.parse(setup).body if isinstance(each, kinds)
    )


def _confine(timeout: float, memory_mb: int, packages: Sequence[str]) -> None:
    """Give up files, privileges, memory, time and new processes, in this order."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.closerange(CHANNEL + 1, 4096)
    roots = (*_standard_library(), TIME_ZONES, *packages)
    kernel.confine_files((*roots, *LIBRARIES), (os.devnull,))
    readable = all(map(_readable, roots))
    # Landlock then keeps one who may read everything from doing so.
    if os.geteuid() == 0 and (readable or kernel.landlock_version() >= 1):
        kernel.become(NOBODY, reads_all=not readable)
    threads_are_all = kernel.forbid_processes()
    bounds = {
        resource.RLIMIT_AS: memory_mb * 2**20,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: int(timeout) + 2,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    if not threads_are_all:
        bounds[resource.RLIMIT_NPROC] = 0
    for kind, bound in bounds.items():
        resource.setrlimit(kind, (bound, bound))
    sys.argv = [""]
    sys.addaudithook(_guard(roots))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, timeout)


def _readable(path: str) -> bool:
    """Whether any user can read the file or folder `path`, if there is one."""
    place = Path(path)
    return not place.exists() or bool(
        place.stat().st_mode & stat.S_IROTH
        and all(folder.stat().st_mode & stat.S_IXOTH for folder in place.resolve().parents)
    )


def _standard_library() -> tuple[str, ...]:
    """The folders of the standard library, each ending in a slash."""
    folders = (Path(sys.base_prefix), Path(sys.base_exec_prefix), Path(os.__file__).parent)
    return tuple(dict.fromkeys(f"{folder.resolve()}/" for folder in folders))


def _guard(roots: tuple[str, ...]) -> Any:
    """An audit hook that lets a program read below `roots` and nothing else."""
    real, local = os.path.realpath, (kernel.AF_UNIX,)
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def check(event: str, args: tuple[Any, ...]) -> None:
        # Event loops wake themselves through a pair of sockets without addresses.
        if event.startswith(REFUSED) and (event, args[1:2]) != ("socket.__new__", local):
            raise PermissionError(f"{event} is not allowed here")
        if event == "open" and not isinstance(args[0], int):
            path = real(os.fsdecode(args[0]))
            if path != os.devnull and (args[2] & writing or not path.startswith(roots)):
                raise PermissionError(f"opening {path} is not allowed here")

    return check
