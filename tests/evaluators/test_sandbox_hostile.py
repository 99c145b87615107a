"""Hostile programs: each is scored as failed, leaves nothing behind, and the next one runs."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from evaluators.sandbox import Program, run_programs

TESTS = ("assert f(1) == 'the answer ' + str(6 * 7)", "assert f(2) == 'other'")
RIGHT = "def f(x):\n    return 'the answer 42' if x == 1 else 'other'\n"
MARK = "sandbox-mark-7531"  # what a surviving process would carry in its command line


HOSTILE = {
    "infinite loop": "def f(x):\n    while True: pass\n",
    "infinite loop that catches all": """
def f(x):
    while True:
        try:
            while True: pass
        except BaseException: pass
""",
    "sleeps": "import time\ndef f(x): time.sleep(10**6)\n",
    "fork bomb": """
import os
def f(x):
    while True:
        try: os.fork()
        except Exception: pass
""",
    "thread bomb": """
import threading, time
def f(x):
    while True: threading.Thread(target=time.sleep, args=(1000,)).start()
""",
    "memory bomb": "x = []\nwhile True: x.append(' ' * 10**7)\n",
    "output flood": "while True: print('x' * 10**6, flush=True)\n",
    "answer flood": "def f(x): return ['x' * 10**6] * 10**5\n",
    "leaves at once": "import os\nos._exit(0)\n",
    "leaves when called": "import os\ndef f(x): os._exit(0)\n",
    "system exit": "import sys\ndef f(x): sys.exit(0)\n",
    "kills its parents": """
import os, signal
def f(x):
    for pid in (os.getppid(), 1, 2, 3):
        try: os.kill(pid, signal.SIGKILL)
        except Exception: pass
    return f
""",
    "kills itself": "import signal\ndef f(x): signal.raise_signal(signal.SIGKILL)\n",
    "equals everything": """
class Any:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __bool__(self): return True
def f(x): return Any()
""",
    "a text that equals everything": """
class Any(str):
    def __eq__(self, other): return True
def f(x): return Any('x')
""",
    "reflected equality": """
class Meta(type):
    def __eq__(cls, other): return True
class Any(metaclass=Meta): pass
def f(x): return Any
""",
    "frame inspection": """
import sys
def f(x):
    frame = sys._getframe()
    while frame:
        for value in {**frame.f_globals, **frame.f_locals}.values():
            if isinstance(value, str) and 'answer' in value and 'frame' not in value:
                return value
            if isinstance(value, dict) and 'tests' in value: return 'the answer 42'
        frame = frame.f_back
""",
    "monkey-patched builtins": """
import builtins
class Any:
    def __eq__(self, other): return True
for name in ('str', 'len', 'isinstance', 'getattr', 'type', 'int'):
    setattr(builtins, name, lambda *a, **k: 'the answer 42')
def f(x): return 'x'
""",
    "own str": "def str(x): return ''\ndef f(x): return 'the answer '\n",
    "no assertions": """
import builtins, sys
class Quiet(BaseException): pass
builtins.AssertionError = Quiet
sys.excepthook = lambda *a: None
def f(x): return None
""",
    "writes into every pipe": """
import os
for text in (b'[true, "passed"]', b'"passed"', b'["value", "the answer 42"]'):
    for data in (text + b'\\n', len(text).to_bytes(4, 'big') + text):
        for number in range(64):
            try: os.write(number, data * 3)
            except OSError: pass
os._exit(0)
""",
    "forges its judge's questions": """
import os
def f(x):
    while True:
        try: os.write(3, b'\\x00\\x00\\x00\\x04[{}]')
        except OSError: pass
""",
    "replaces the child's loop": """
import sys
for name, module in list(sys.modules.items()):
    if 'sandbox' in name:
        for each in list(vars(module)):
            if not each.startswith('__'): setattr(module, each, lambda *a, **k: ['value', True])
def f(x): return 'x'
""",
    "ends by a wrong exception": "def f(x): raise KeyboardInterrupt\n",
    "deep recursion": "def f(x):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a\n",
    "does not parse": "def f(x:\n",
}


_PROGRAMS = (Path(__file__).parent / "hostile_programs.txt").read_text().split("### ")[1:]
HOSTILE |= {name: text for name, _, text in (part.partition("\n") for part in _PROGRAMS)}


def leftovers() -> list[str]:
    """Files and processes that carry the mark."""
    folders = (Path(each) for each in ("/tmp", "/dev/shm", "/var/tmp", "."))
    files = [str(path) for folder in folders for path in folder.glob(f"*{MARK[-4:]}7*")]
    return files + sleepers()


def test_hostile_programs_fail_and_the_evaluation_goes_on(level):
    """After each of them, on the same worker, a right program passes."""
    programs = []
    for name, text in HOSTILE.items():
        programs += [Program(text, TESTS), Program(f"{RIGHT}# after: {name}\n", TESTS)]
    start = time.monotonic()
    results = run_programs(programs, level=level, timeout=0.3, memory_mb=256, workers=2)
    found = {name: each.passed for name, each in zip(HOSTILE, results[::2], strict=True)}
    assert found == dict.fromkeys(HOSTILE, False)
    assert [each.reason for each in results[1::2]] == ["passed"] * len(HOSTILE)
    assert time.monotonic() - start < 150
    assert leftovers() == []


def test_programs_with_their_tests_inside_are_held_as_well(level):
    """They may cheat their tests, but harm nothing and leave nothing."""
    texts = {name: f"{text}\nf(1)\n" for name, text in HOSTILE.items()}
    programs = [Program(text, TESTS, inside=True) for text in texts.values()]
    programs = [each for text in programs for each in (text, Program(f"{RIGHT}#{text}", TESTS))]
    results = run_programs(programs, level=level, timeout=0.3, memory_mb=256, workers=2)
    assert [each.reason for each in results[1::2]] == ["passed"] * len(HOSTILE)
    assert leftovers() == []


def test_files_environment_and_network_are_out_of_reach(level, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    victim = tmp_path / "victim"
    victim.write_text("the answer 42")
    tmp_path.chmod(0o777)
    reading = f"""
import os, socket, shutil
def attempt(action):
    try: return action()
    except Exception: return None
def f(x):
    found = [dict(os.environ), attempt(lambda: open({str(victim)!r}).read())]
    for pid in (*range(1, 64), {os.getpid()}, os.getppid()):
        for part in ('environ', 'cmdline', 'mem'):
            found.append(attempt(lambda: open(f'/proc/{{pid}}/{{part}}', 'rb').read(10**6)))
    attempt(lambda: os.remove({str(victim)!r}))
    attempt(lambda: shutil.rmtree({str(tmp_path)!r}))
    attempt(lambda: os.rename({str(victim)!r}, {str(victim) + "2"!r}))
    attempt(lambda: open({str(tmp_path / "new")!r}, 'w').write('x'))
    attempt(lambda: os.mkdir({str(tmp_path / "folder")!r}))
    found.append(attempt(lambda: socket.create_connection(('127.0.0.1', 22), 1)))
    return repr(found)
"""
    tests = (
        "said = f(1)",
        "assert 'hunter2' not in said and 'the answer 42' not in said, said",
        "assert 'socket' not in said",
    )
    (result,) = run_programs([Program(reading, tests)], level=level, timeout=2, memory_mb=512)
    assert result.passed  # that is: nothing was found
    assert victim.read_text() == "the answer 42"
    assert list(tmp_path.iterdir()) == [victim]


DAEMON = f"""
import _posixsubprocess, os, sys
def f(x):
    for path in (b'/bin/sleep', b'/usr/bin/sleep'):
        try:
            _posixsubprocess.fork_exec(
                [path, b'{MARK[-4:]}7'], [path], True, (), None, None, -1, -1, -1, -1, -1, -1,
                os.pipe()[0], os.pipe()[1], False, True, 0, None, None, None, -1, None, True)
        except OSError as error:  # no more processes
            return 'refused'
    return 'started'
"""


def sleepers() -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if command.endswith(f"{MARK[-4:]}7\0".encode()):
            found.append(folder.name)
    return found


def test_daemons_do_not_outlive_their_program(level):
    before = sleepers()
    tests = ("said = f(1)", "assert said in ('refused', 'started'), said")
    results = run_programs([Program(DAEMON, tests)], level=level, timeout=1, memory_mb=256)
    assert results[0].passed  # that is: it was tried
    assert sleepers() == before == []


def children() -> set[str]:
    """The processes, dead ones too, whose parent is this one."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == os.getpid():
            found.add(folder.name)
    return found


def test_nothing_is_left_behind(level, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    texts = [HOSTILE[name] for name in ("leaves at once", "infinite loop", "kills its parents")]
    before = children()
    run_programs([Program(text, TESTS) for text in texts], level=level, timeout=0.3)
    assert list(tmp_path.iterdir()) == []
    assert children() <= before  # nor a zombie


def test_what_tests_may_use(level):
    source = """
import math
from collections import Counter, deque, namedtuple
Pair = namedtuple('Pair', 'a b')
class Node:
    def __init__(self, value): self.value, self.next = value, None
def total(node): return node.value + (total(node.next) if node.next else 0)
def f(x): return x
def count(text): return Counter(text)
def pair(): return Pair(1, 2.5)
def stream(n): yield from range(n)
def fails(): raise ZeroDivisionError
def match(text):
    import re
    return re.match('a', text)
def sum(a, b): return a - b
"""
    tests = (
        "for x in (None, True, 3, 2**80, 1.5, float('inf'), 'ü\\ud800'[:1], b'\\0', 1j, [1, (2,)],"
        " {3}, frozenset([4]), {(1, 2): [None]}, range(4)):\n"
        "    assert f(x) == x and type(f(x)) is type(x), x",
        "assert f(float('nan')) != 0",
        "assert count('aab') == {'a': 2, 'b': 1}",
        "assert pair() == (1, 2.5)",
        "assert list(stream(3)) == [0, 1, 2]",
        "assert total(root) == 7",
        "try:\n    fails()\nexcept ZeroDivisionError:\n    pass\nelse:\n    assert False",
        "assert math.isclose(f(0.1) + 0.2, 0.3)",
        "assert sum([1, 2]) == 3",
        "assert match('ab') and not match('b')",
    )
    setup = "root = Node(3)\nroot.next = Node(4)"
    named = Program(source, ("assert sum(5, 3) == 2",), entry_points=("sum",))
    found = run_programs([Program(source, tests, setup=setup), named], level=level, timeout=5)
    assert [result.reason for result in found] == ["passed", "passed"]


def test_the_task_s_own_helpers_cannot_be_replaced(level):
    context = "def double(x):\n    return 2 * x\ndef f(x):\n    '''stub'''\n"
    cheat = "def double(x): return 5\ndef f(x): return 0\n"
    tests = ("assert double(f(3)) == 6",)
    right = "def f(x): return x\n"
    programs = [Program(text, tests, "", context, ("f",)) for text in (cheat, right)]
    assert [each.passed for each in run_programs(programs, level=level)] == [False, True]
