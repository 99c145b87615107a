"""Ctrl-C at any moment: heard, never twice, and never in the middle of a write."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import optuna
import pytest
import sqlalchemy

from sweeps.execution.progress import LineDisplay
from sweeps.search.attempt_records import mark_interrupted
from sweeps.search.optuna_storage import InterruptSafeStorage
from sweeps.storage.interrupts import interruptible, shielded


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_interrupts_and_is_given_back(number: signal.Signals) -> None:
    given = signal.signal(number, signal.default_int_handler)  # nohup, say, has it ignored
    try:
        with pytest.raises(KeyboardInterrupt), interruptible(), interruptible():
            signal.raise_signal(number)
            pytest.fail("not interrupted")
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, given)


def test_what_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with interruptible():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interrupt_waits_for_the_end_of_the_outermost_shield() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interruptible(), shielded():
        with shielded():
            signal.raise_signal(signal.SIGINT)
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]


def test_a_shield_without_an_interrupt_or_a_handler_does_nothing() -> None:
    with interruptible(), shielded():
        pass
    with shielded():
        pass


class Thing:
    """Something that a weak reference can point to."""


def test_an_interrupt_that_a_callback_swallows_comes_again() -> None:
    thing = Thing()
    reference = weakref.ref(thing, lambda gone: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), interruptible():
        del thing
        time.sleep(10)
        pytest.fail("the interrupt is lost")
    assert reference() is None


def test_an_interrupt_within_a_write_keeps_no_lock(tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = InterruptSafeStorage(f"sqlite:///{tmp_path / 'optuna.db'}")
    study = optuna.create_study(storage=storage)
    study.ask()

    written: list[str] = []

    def interrupt(connection: object, cursor: object, statement: str, *more: object) -> None:
        if statement.startswith("INSERT INTO trials") and not written:
            written.append(statement)
            signal.raise_signal(signal.SIGINT)

    with interruptible():
        try:
            sqlalchemy.event.listen(storage.engine, "after_cursor_execute", interrupt)
            study.ask()
            pytest.fail("not interrupted")
        except KeyboardInterrupt:
            assert len(mark_interrupted(study)) == 2
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL"]


# numpy.random, which the first suggestion would import, drops what is raised within its import.
WORKER = """
import sys
import numpy.random
import optuna
from sweeps.storage.interrupts import interruptible
from sweeps.search.attempt_records import mark_interrupted
from sweeps.search.optuna_storage import InterruptSafeStorage

optuna.logging.set_verbosity(optuna.logging.ERROR)
storage = InterruptSafeStorage(sys.argv[1])
with interruptible():
    while True:
        study = optuna.create_study(storage=storage)
        try:
            print("works", flush=True)
            while True:
                trial = study.ask()
                trial.set_user_attr("x", trial.suggest_float("x", 0.0, 1.0))
                study.tell(trial, 1.0)
        except KeyboardInterrupt:
            mark_interrupted(study)
            running = [t for t in study.get_trials(deepcopy=False) if t.state.name == "RUNNING"]
            assert not running
            print("stopped", flush=True)
"""


def interrupts(tmp_path: Path, count: int) -> None:
    """So many, at random moments of the worker's work; each is heard and leaves nothing open."""
    command = [sys.executable, "-c", WORKER, f"sqlite:///{tmp_path / 'optuna.db'}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        try:
            for number in range(count):
                assert worker.stdout.readline() == "works\n", number
                time.sleep(random.uniform(0.0, 0.05))
                worker.send_signal(signal.SIGINT)
                assert worker.stdout.readline() == "stopped\n", number
        finally:
            worker.kill()


@pytest.mark.timeout(60)
def test_interrupts_are_heard_and_leave_nothing_open(tmp_path: Path) -> None:
    interrupts(tmp_path, 8)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_hundred_interrupts(tmp_path: Path) -> None:
    interrupts(tmp_path, 300)


IMPORTER = """
import signal, sys
from sweeps.cli.answer import Answer, as_command
from sweeps.cli.run import stoppable

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy.random._common":
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
def command() -> Answer[None]:
    with stoppable("AGAIN"):
        print("not interrupted")

code = as_command("run", command)(as_json=False)
print(code, "numpy.random._generator" in sys.modules)
"""


def test_an_interrupt_while_compiled_code_is_imported_waits_for_its_end() -> None:
    """Within it, it may be dropped or come out as an ImportError."""
    command = [sys.executable, "-c", IMPORTER]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "\nStopped. Finished trials are kept. To continue:\n  AGAIN\n130 True\n"


TALKER = """
import os, sys
from sweeps.execution.progress import LineDisplay
display = LineDisplay()
display.say("first")
sys.stdin.readline()  # until nobody reads
display.say("second")
print("third")
sys.exit(130)
"""


def test_a_closed_pipe_changes_no_exit_code() -> None:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", TALKER]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as talker:
        assert talker.stdin and talker.stdout and talker.stderr
        assert talker.stdout.readline() == "first\n"
        talker.stdout.close()
        talker.stdin.write("go on\n")
        talker.stdin.flush()
        assert talker.stderr.read() == ""
        assert talker.wait(timeout=20) == 130


def test_a_full_disk_under_the_log_is_not_silent() -> None:
    with pytest.raises(OSError, match="No space left"), Path("/dev/full").open("w") as full:
        LineDisplay(full).say("text")
