"""Comparing answers in a process that can be ended, from any thread."""

from __future__ import annotations

import os
import threading
import time

import pytest

from evaluators import math_equality
from evaluators.errors import EvaluationError
from evaluators.math_equality import MathVerifier, same_mathematics


def test_it_works_in_a_thread_where_signals_do_not():
    found = []
    pairs = [("\\frac{1}{2}", "0.5"), ("1+x", "x+1"), ("3", "4"), (None, "4"), ("x" * 2000, "y")]
    thread = threading.Thread(target=lambda: found.extend(same_mathematics(pairs, 60.0)))
    thread.start()
    thread.join()
    assert found == [True, True, False, False, False]


def test_equal_texts_start_no_process():
    with MathVerifier() as verifier:
        assert verifier.equal("18 dollars", "18")
        assert verifier.equal("\\dfrac12", "\\frac{1}{2}")
        assert verifier._process is None


@pytest.fixture
def stubborn(tmp_path, monkeypatch):
    """A worker that never answers a pair that holds "sleep" and dies of one that holds "die"."""
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import json, sys, time\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    if 'die' in line: sys.exit(1)\n"
        "    if 'sleep' in line: time.sleep(600)\n"
        "    print('true', flush=True)\n"
    )
    monkeypatch.setattr(math_equality, "_WORKER", worker)


def test_a_pair_that_takes_too_long_is_unequal_and_the_next_is_compared(stubborn):
    with MathVerifier(0.5) as verifier:
        assert verifier.equal("a", "b")
        process = verifier._process
        start = time.monotonic()
        assert not verifier.equal("sleep", "b")
        assert time.monotonic() - start < 10
        assert verifier.timeouts == 1
        assert process.returncode is not None
        assert verifier.equal("c", "d")
        last = verifier._process
    assert last.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(last.pid, 0)


def test_a_worker_that_dies_is_replaced(stubborn):
    with MathVerifier(20.0) as verifier:
        assert not verifier.equal("die", "b")
        assert verifier.timeouts == 0
        assert verifier.equal("a", "b")


def test_a_worker_that_does_not_start_is_an_error(tmp_path, monkeypatch):
    worker = tmp_path / "worker.py"
    worker.write_text("raise SystemExit(1)\n")
    monkeypatch.setattr(math_equality, "_WORKER", worker)
    with MathVerifier() as verifier, pytest.raises(EvaluationError, match="did not start"):
        verifier.equal("a", "b")
