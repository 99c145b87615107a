"""Running generated programs: each in a limited process, never forked from this one."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, final

from evaluators.errors import SandboxError, unknown_name
from evaluators.sandbox_packages import find_packages

LEVELS = ("bubblewrap", "rlimits")
_HERE = Path(__file__).resolve().parent
# At the end of the path: what lies beside this package must not hide the standard library.
_START = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from evaluators._sandbox import runner; sys.path.pop(); runner.main()"
)
_START_SECONDS = 60.0
# A machine without memory to spare can do this to a program that is right.
_GONE = "took its sandbox down"


@dataclass(frozen=True)
class Program:
    """A generated program and how it is tested.

    `source` is the untrusted code. `tests` are trusted statements that raise when they fail, run
    after `setup` in another process than the source, which only ever sees the arguments of calls.
    They may use what `context` defines, trusted code of the task, and the source's
    `entry_points`, which come first; with none named, all the names that the source defines,
    except where they hide a builtin one.

    `inside`: the tests run beside the source in its process instead. They may then use any object
    it makes, and it can cheat them; `context` and `entry_points` mean nothing.
    """

    source: str
    tests: tuple[str, ...] = ()
    setup: str = ""
    context: str = ""
    entry_points: tuple[str, ...] = ()
    inside: bool = False


@dataclass(frozen=True)
class Sandbox:
    """How generated programs are isolated and limited; None: as the benchmark does it.

    Raises:
        ValueError: a limit is out of range.
    """

    level: str | None = None
    """Either bubblewrap or rlimits."""
    timeout: float | None = None
    """Seconds, 0.1 to 3600."""
    memory_mb: int | None = None
    """MiB, 64 to 1048576."""
    packages: tuple[str, ...] | None = None
    """Installed packages that a program may import, besides the standard library and numpy."""

    def __post_init__(self) -> None:
        check_limits(self.timeout, self.memory_mb)

    def limits(self) -> dict[str, Any]:
        """The limits that are given, by name."""
        given = {key: value for key, value in vars(self).items() if value is not None}
        given.pop("level", None)
        return given


def no_sandbox(benchmark: str, found: str | Sandbox) -> ValueError:
    """The error for a sandbox, or limits, of a benchmark that runs no program."""
    return ValueError(
        f"{benchmark} runs no generated code; expected no sandbox, timeout, memory_mb and "
        f"packages, found {found!r}"
    )


def check_limits(timeout: float | None, memory_mb: int | None) -> None:
    """Raise ValueError where no program could run within these limits."""
    if timeout is not None and not 0.1 <= timeout <= 3600:
        raise ValueError(f"timeout: expected 0.1 to 3600 seconds, found {timeout:g}")
    if memory_mb is not None and not 64 <= memory_mb <= 2**20:
        raise ValueError(f"memory_mb: expected 64 to {2**20} MiB, found {memory_mb}")


@dataclass(frozen=True)
class ExecutionResult:
    """Whether a program passed all its tests, and in one phrase why not."""

    passed: bool
    reason: str


def resolve_level(requested: str | None) -> str:
    """The level to use; raises SandboxError where it cannot be had.

    None means bubblewrap, which shows a program neither files nor network nor other processes.
    "rlimits" refuses them, as far as the kernel can (Landlock, seccomp), and shares the machine's
    names otherwise, so it is taken only when asked for by name.
    """
    if requested is not None and requested not in LEVELS:
        raise SandboxError(str(unknown_name("sandbox level", requested, LEVELS)))
    if requested == "rlimits":
        return requested
    _, problem = _bubblewrap()
    if problem:
        raise SandboxError(
            f"Generated code needs a sandbox and bubblewrap cannot be used here ({problem}). "
            'Install it (Debian, Ubuntu: bubblewrap), or accept the weaker level "rlimits" by '
            "naming it as the benchmark's sandbox."
        )
    return "bubblewrap"


def run_programs(
    programs: Sequence[str | Program],
    *,
    level: str,
    timeout: float = 3.0,
    memory_mb: int = 512,
    packages: Sequence[str] = (),
    workers: int | None = None,
) -> list[ExecutionResult]:
    """Run each program in a fresh process and its tests in another; results in order.

    `timeout` is in seconds of CPU time, and of sleep: time in which a program waits for a CPU
    does not count, so that a busy machine fails none. `memory_mb` bounds the address space.
    Programs may import the standard library and the installed `packages`. A program whose sandbox
    went down with it gets a second run, alone. Equal programs run once. A text is a program with
    its tests inside, which it can therefore cheat; it passes when it says that it ran to its end.
    `workers` programs run at a time: by default one on each usable CPU.
    """
    if level not in LEVELS:
        raise SandboxError(str(unknown_name("sandbox level", level, LEVELS)))
    given = [Program(each) if isinstance(each, str) else each for each in programs]
    jobs = list(dict.fromkeys(given))
    count = workers or len(os.sched_getaffinity(0))
    command = _command(level, find_packages(packages))
    results = _run(jobs, command, timeout, memory_mb, count)
    again = [job for job in jobs if results[job].reason == _GONE]
    results |= _run(again, command, timeout, memory_mb, 1)
    return [results[each] for each in given]


def _run(
    jobs: Sequence[Program], command: Sequence[str], timeout: float, memory_mb: int, workers: int
) -> dict[Program, ExecutionResult]:
    """The results of different programs, `workers` of which run at a time."""
    waiting: SimpleQueue[Program] = SimpleQueue()
    for job in jobs:
        waiting.put(job)
    results: dict[Program, ExecutionResult] = {}

    def work() -> None:
        with (
            tempfile.TemporaryDirectory(prefix="sandbox-") as folder,
            contextlib.ExitStack() as up,
        ):
            Path(folder).chmod(0o711)  # an unprivileged child must reach its own folder
            worker: _Worker | None = None
            for job in _until_empty(waiting):
                worker = worker or up.enter_context(_Worker(command, Path(folder)))
                result = worker.run(job, timeout, memory_mb)
                if result is None:
                    result = ExecutionResult(False, _GONE)
                    up.close()
                    worker = None
                results[job] = result

    count = min(workers, len(jobs))
    with ThreadPoolExecutor(max(1, count)) as pool:
        for future in [pool.submit(work) for _ in range(count)]:
            future.result()
    return results


def _until_empty(queue: SimpleQueue[Program]) -> Iterator[Program]:
    with contextlib.suppress(Empty):
        while True:
            yield queue.get_nowait()


@final
class _Worker:
    """A runner in its own process, ready for one program after the other."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            cwd=folder,
            start_new_session=True,
        )
        self._unread = b""
        if self._line(_START_SECONDS) != b'"ready"':
            self._end()
            assert self._process.stderr is not None
            said = self._process.stderr.read().decode(errors="replace").strip().splitlines()
            raise SandboxError(f"The sandbox failed to start: {' '.join(said[-1:])}")

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def run(self, program: Program, timeout: float, memory_mb: int) -> ExecutionResult | None:
        """The result, or None where the runner did not survive the program."""
        job = {**vars(program), "timeout": timeout, "memory_mb": memory_mb}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        # The runner keeps time itself; this is for one that does not answer at all.
        line = self._line(60 * timeout + 60)
        return ExecutionResult(*json.loads(line)) if line is not None else None

    def _line(self, seconds: float) -> bytes | None:
        """The next line of the answer; None where none comes in time."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        while b"\n" not in self._unread:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(pipe, 65536) if ready else b""
            if not part:
                return None
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _end(self) -> None:
        """End the runner and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _command(level: str, packages: Mapping[str, tuple[Path, ...]]) -> list[str]:
    python = [str(Path(sys.executable).resolve()), "-I", "-S", "-B", "-X", "utf8", "-c", _START]
    paths = json.dumps({name: [str(path) for path in each] for name, each in packages.items()})
    if level == "rlimits":
        return [*python, str(_HERE.parent), paths]
    wrapper, _ = _bubblewrap()
    mounts = [each for places in packages.values() for path in places for each in _mount(path)]
    inside = "/run/evaluators/_sandbox"
    own = ["--ro-bind", str(_HERE / "_sandbox"), inside]
    ended = ["--remount-ro", "/tmp", "--chdir", "/tmp"]
    return [*wrapper, *mounts, *own, *ended, *python, "/run", paths]


def _mount(path: Path) -> list[str]:
    """The options that show `path`, read-only, where the programs may look for it."""
    if path.is_relative_to("/usr"):
        return []
    parents = [*path.parents][-2::-1]  # bwrap would make them for root alone
    made = [each for folder in parents for each in ("--perms", "0755", "--dir", str(folder))]
    return [*made, "--ro-bind", str(path), str(path)]


def _bubblewrap() -> tuple[list[str], str]:
    """The command that works here, and why none does; the latter is empty where one does."""
    found = shutil.which("bwrap")
    return _probed(found) if found else ([], "bwrap is not installed")


@lru_cache(maxsize=1)
def _probed(program: str) -> tuple[list[str], str]:
    # Real root stays root in there, to become another user for each program: the kernel bounds
    # the processes of users, but never those of root, whatever a namespace calls it.
    problem = ""
    for as_root in (True, False)[os.geteuid() != 0 :]:
        command = _wrapped(program, as_root)
        problem = _problem([*command, "/usr/bin/true"])
        if not problem:
            return command, ""
    return [], problem


def _wrapped(program: str, as_root: bool) -> list[str]:
    """bwrap with no network, no host files but /usr and the interpreter, and few capabilities."""
    command = [program, "--die-with-parent", "--new-session"]
    command += ["--as-pid-1", "--clearenv", "--cap-drop", "ALL"]
    if as_root:
        command += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_KILL"):
            command += ["--cap-add", capability]
    else:
        command += ["--unshare-all", "--uid", "65534", "--gid", "65534"]
    command += ["--ro-bind", "/usr", "/usr"]
    for name in ("/bin", "/lib", "/lib64"):
        place = Path(name)
        if place.is_symlink():
            command += ["--symlink", str(place.readlink()), name]
        elif place.exists():
            command += ["--ro-bind", name, name]
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    return [*command, *_mount(Path(sys.base_prefix).resolve())]


def _problem(command: Sequence[str]) -> str:
    """Why a command fails; empty where it does not."""
    try:
        probe = subprocess.run(command, capture_output=True, timeout=10, env={})
    except subprocess.TimeoutExpired:
        return "bwrap gave no answer"
    said = probe.stderr.decode(errors="replace").strip().splitlines()
    return "" if probe.returncode == 0 else (said[-1] if said else "bwrap failed")
