"""Running generated programs: each in a limited process, never forked from this one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluators.errors import SandboxError, unknown_name

LEVELS = ("bubblewrap", "rlimits")
_RUNNER = Path(__file__).with_name("_runner.py")


@dataclass(frozen=True)
class ExecutionResult:
    """Whether a program ran to its end, proved by a nonce, and in one phrase why not."""

    passed: bool
    reason: str


def resolve_level(requested: str | None) -> str:
    """The level to use; raises SandboxError where it cannot be had.

    None means bubblewrap, which shuts out files, network and other processes. "rlimits" (CPU
    time, memory, no writing, no processes, an audit hook) stops accidents only, so it is taken
    only when asked for by name.
    """
    if requested is not None and requested not in LEVELS:
        raise SandboxError(str(unknown_name("sandbox level", requested, LEVELS)))
    if requested == "rlimits":
        return requested
    problem = _bubblewrap_problem()
    if problem:
        raise SandboxError(
            f"Generated code needs a sandbox and bubblewrap cannot be used here ({problem}). "
            'Install it (Debian, Ubuntu: bubblewrap), or accept the weaker level "rlimits" by '
            "naming it as the benchmark's sandbox."
        )
    return "bubblewrap"


def run_programs(
    programs: Sequence[str], *, level: str, timeout: float = 3.0, memory_mb: int = 512
) -> list[ExecutionResult]:
    """Run each program, tests included, in a fresh process; results in order.

    `timeout` is in seconds of CPU time (three times that plus two by the clock), `memory_mb`
    bounds the address space. Equal programs run once. One helper process serves the whole call.
    """
    if level not in LEVELS:
        raise SandboxError(str(unknown_name("sandbox level", level, LEVELS)))
    distinct = list(dict.fromkeys(programs))
    if not distinct:
        return []
    request = {"programs": distinct, "timeout": timeout, "memory_mb": memory_mb}
    deadline = 30 + len(distinct) * (3 * timeout + 3)
    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder:
        Path(folder).chmod(0o711)  # an unprivileged child must reach its own folder below
        answer = _converse(_command(level), json.dumps(request), Path(folder), deadline)
    results = dict(zip(distinct, (ExecutionResult(*each) for each in answer), strict=True))
    return [results[program] for program in programs]


def _converse(
    command: Sequence[str], request: str, folder: Path, deadline: float
) -> list[tuple[bool, str]]:
    """Send the request to a fresh runner and return its answer; the runner is ended."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={},
        cwd=folder,
        start_new_session=True,
    )
    try:
        output, complaint = process.communicate(request.encode(), timeout=deadline)
    except subprocess.TimeoutExpired:
        raise SandboxError(f"The sandbox gave no answer within {deadline:.0f} s") from None
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode != 0:
        tail = complaint.decode(errors="replace").strip().splitlines()[-1:]
        raise SandboxError(f"The sandbox failed to run: {' '.join(tail) or process.returncode}")
    return [(bool(passed), str(reason)) for passed, reason in json.loads(output)]


def _command(level: str) -> list[str]:
    python = [str(Path(sys.executable).resolve()), "-I", "-S", "-B", "-X", "utf8"]
    if level == "rlimits":
        return [*python, str(_RUNNER)]
    bound = ["--ro-bind", str(_RUNNER), "/runner.py"]
    return [*_bubblewrap(), *bound, *python, "/runner.py"]


def _bubblewrap() -> list[str]:
    """bwrap with no network, no capabilities and no host files but /usr and the interpreter."""
    command = [shutil.which("bwrap") or "bwrap", "--unshare-all", "--die-with-parent"]
    command += ["--new-session", "--clearenv", "--cap-drop", "ALL"]
    command += ["--uid", "65534", "--gid", "65534", "--ro-bind", "/usr", "/usr"]
    for name in ("/bin", "/lib", "/lib64"):
        place = Path(name)
        if place.is_symlink():
            command += ["--symlink", str(place.readlink()), name]
        elif place.exists():
            command += ["--ro-bind", name, name]
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    prefix = str(Path(sys.base_prefix).resolve())
    if not prefix.startswith("/usr"):
        command += ["--ro-bind", prefix, prefix]
    return [*command, "--chdir", "/tmp"]


def _bubblewrap_problem() -> str:
    """Why bubblewrap cannot be used here; empty where it can."""
    if shutil.which("bwrap") is None:
        return "bwrap is not installed"
    try:
        probe = subprocess.run(
            [*_bubblewrap(), "/usr/bin/true"], capture_output=True, timeout=10, env={}
        )
    except subprocess.TimeoutExpired:
        return "bwrap gave no answer"
    if probe.returncode == 0:
        return ""
    return probe.stderr.decode(errors="replace").strip().splitlines()[-1:][0] or "bwrap failed"
