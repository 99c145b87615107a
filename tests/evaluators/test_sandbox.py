from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from evaluators._sandbox.runner import _Busy
from evaluators._sandbox.wire import WireError
from evaluators.errors import SandboxError
from evaluators.sandbox import LEVELS, ExecutionResult, _Worker, resolve_level, run_programs


def usable(level: str) -> bool:
    try:
        return resolve_level(level) == level
    except SandboxError:
        return False


@pytest.fixture(
    params=[
        pytest.param(level, marks=pytest.mark.skipif(not usable(level), reason=f"no {level} here"))
        for level in LEVELS
    ]
)
def level(request) -> str:
    return request.param


def reasons(level: str, *programs: str, timeout: float = 1.0) -> list[str]:
    results = run_programs(programs, level=level, timeout=timeout, memory_mb=256)
    assert all(result.passed == (result.reason == "passed") for result in results)
    return [result.reason for result in results]


def test_right_programs_pass_and_wrong_ones_say_why(level):
    assert reasons(
        level,
        "def f(x):\n    return x + 1\nassert f(1) == 2\n",
        "def f(x):\n    return x\nassert f(1) == 2\n",
        "def f(x:\n",
        "import math, re, heapq, collections, json\nassert math.gcd(4, 6) == 2\n",
        "undefined_name\n",
        "",
    ) == ["passed", "AssertionError", "SyntaxError", "passed", "NameError", "passed"]


def test_leaving_before_the_tests_is_no_pass(level):
    assert reasons(
        level,
        "import sys\nsys.exit(0)\nassert False\n",
        "import os\nos._exit(0)\nassert False\n",
        "raise SystemExit\n",
        "import os, signal\nsignal.raise_signal(signal.SIGKILL)\n",
    ) == ["SystemExit", "ended before its tests did", "SystemExit", "ended before its tests did"]


def test_endless_loops_end(level):
    start = time.monotonic()
    found = reasons(
        level,
        "while True:\n    pass\n",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass\n",
        "import time\ntime.sleep(1000)\n",
        "assert True\n",
        timeout=0.3,
    )
    assert found == ["timeout", "timeout", "timeout by the clock", "passed"]
    assert time.monotonic() - start < 20


def test_memory_is_bounded(level):
    assert reasons(level, "x = [0] * 10**9\n", "x = 'a' * 2**20\n") == ["MemoryError", "passed"]


def test_nothing_of_the_caller_can_be_seen(level, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    secret = str(Path(__file__).resolve())
    look = f"""
import os
assert "SECRET_TOKEN" not in os.environ
for process in (os.getppid(), {os.getpid()}, "self", 1):
    try:
        with open(f"/proc/{{process}}/environ", "rb") as file:
            assert b"hunter2" not in file.read()
    except OSError:
        pass
try:
    open({secret!r})
except OSError:
    pass
else:
    raise AssertionError("read a file of the host")
"""
    assert reasons(level, look) == ["passed"]


def test_nothing_can_be_written_deleted_or_started(level, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("here")
    tmp_path.chmod(0o777)
    attempts = [
        f"open({str(tmp_path / 'new')!r}, 'w').write('x')",
        f"__import__('os').remove({str(victim)!r})",
        f"__import__('shutil').rmtree({str(tmp_path)!r})",
        f"__import__('os').truncate({str(victim)!r}, 0)",
        "__import__('os').fork()",
        "__import__('subprocess').run(['true'])",
        "__import__('os').system('true') == 0 or 1 / 0",
        "__import__('socket').socket().connect(('127.0.0.1', 9))",
        f"__import__('os').kill({os.getpid()}, 9)",
        "__import__('ctypes').CDLL(None)",
    ]
    assert "passed" not in reasons(level, *attempts)
    assert victim.read_text() == "here"
    assert list(tmp_path.iterdir()) == [victim]


def test_the_proof_cannot_be_found_before_the_end(level):
    """Everything readable is written to everything writable, then the program leaves."""
    cheat = """
import os, sys
found = []
frame = sys._getframe()
while frame:
    found += [v for v in {**frame.f_locals, **frame.f_globals}.values() if type(v) is bytes]
    frame = frame.f_back
found += [value.encode() for value in [*os.environ.values(), *sys.argv]]
for number in range(64):
    try:
        os.set_blocking(number, False)
        found.append(os.read(number, 64))
    except OSError:
        pass
for number in range(64):
    for value in [b"passed", *found]:
        try:
            os.write(number, value)
        except OSError:
            pass
print(*found)
os._exit(0)
"""
    for _ in range(5):  # what the reader sees at once depends on timing
        assert reasons(level, cheat) != ["passed"]
    assert reasons(level, "print('passed'); import os; os._exit(0)") != ["passed"]


def test_programs_do_not_disturb_each_other(level):
    first = "import math\nmath.pi = 3\nimport builtins\nbuiltins.len = None\n"
    second = "import math\nassert math.pi > 3.1 and len([1]) == 1\n"
    assert reasons(level, first, second)[1] == "passed"


def test_equal_programs_run_once(level, monkeypatch):
    run, runs = _Worker.run, []

    def counted(self, program, *limits):
        runs.append(program.source)
        return run(self, program, *limits)

    monkeypatch.setattr("evaluators.sandbox._Worker.run", counted)
    assert reasons(level, *["while True: pass"] * 50, timeout=0.3) == ["timeout"] * 50
    assert runs == ["while True: pass"]


def test_no_programs(level):
    assert run_programs([], level=level) == []


def test_levels_are_chosen_by_name(monkeypatch):
    with pytest.raises(SandboxError, match="Did you mean 'rlimits'"):
        resolve_level("rlimit")
    with pytest.raises(SandboxError, match="Unknown sandbox level"):
        run_programs(["1"], level="none")
    assert resolve_level("rlimits") == "rlimits"
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(SandboxError, match='accept the weaker level "rlimits"'):
        resolve_level(None)


def test_what_the_clock_ended_runs_once_more_alone(monkeypatch):
    """A machine without time to spare, or memory, must not decide what a program is worth."""
    at_once, runs = 0, []

    def run(self, program, timeout, memory_mb):
        nonlocal at_once
        at_once += 1
        time.sleep(0.05)
        runs.append((program.source, at_once))
        at_once -= 1
        first = sum(source == program.source for source, _ in runs) == 1
        match program.source:
            case "slow":
                return ExecutionResult(not first, WireError.IDLE if first else "passed")
            case "sleeper":
                return ExecutionResult(False, WireError.IDLE)
            case "killed":
                return None if first else ExecutionResult(True, "passed")
            case "loop":
                return ExecutionResult(False, WireError.LATE)
        return ExecutionResult(True, "passed")

    monkeypatch.setattr("evaluators.sandbox._Worker.run", run)
    programs = ["slow", "fine", "loop", "sleeper", "killed"]
    found = run_programs(programs, level="rlimits", workers=3)
    assert [result.reason for result in found] == [
        "passed",
        "passed",
        "timeout",
        "timeout by the clock",
        "passed",
    ]
    again = runs[len(programs) :]
    assert again == [("slow", 1), ("sleeper", 1), ("killed", 1)]


def test_a_process_that_wants_the_cpu_is_not_idle(tmp_path):
    busy = _Busy(os.getpid())
    busy._stat = tmp_path / "stat"

    def stat(state: str, ticks: int) -> None:
        busy._stat.write_text(f"7 (a) b) {state} {'0 ' * 10}{ticks} 0 0")

    stat("S", 0)
    assert not busy()
    stat("R", 0)  # no time for it on this machine
    assert busy()
    stat("S", 50)  # it worked since it was last asked about
    assert busy()
    assert not busy()
    busy._stat.unlink()
    assert not busy()
