"""Equality of mathematical answers by math-verify, with a deadline that holds in any thread."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self, final

from evaluators.answers import same_answer
from evaluators.errors import EvaluationError
from evaluators.latex import same_latex
from evaluators.robust_answer import based_number, plain_numbers, single_number

_WORKER = Path(__file__).with_name("_math_worker.py")
STARTUP_SECONDS = 180.0
DEADLINE_SECONDS = 5.0
LONGEST = 2000  # characters of both answers


@final
class MathVerifier:
    """Compares answers in a process that is ended when it takes longer than `deadline` seconds.

    The process starts with the first pair that is not equal as text, and again after it was
    ended; such a pair counts as unequal and in `timeouts`. Use it as a context manager.
    """

    def __init__(self, deadline: float = DEADLINE_SECONDS) -> None:
        self.timeouts = 0
        self._deadline = deadline
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def equal(self, answer: str, gold: str) -> bool:
        """Whether `answer` and `gold`, each the inside of a box, are the same mathematics.

        Numbers are compared exactly; a gold answer in a base needs the same digits and base.
        """
        answer, gold = plain_numbers(answer), plain_numbers(gold)
        based = based_number(gold)
        if based is not None:
            return based_number(answer) == based
        if same_answer(answer, gold) or same_latex(answer, gold):
            return True
        number = single_number(answer)
        if number is not None and (same_answer(number, gold) or same_latex(number, gold)):
            return True
        # A page of text is no answer, and could fill the pipe before it is read.
        return len(answer) + len(gold) <= LONGEST and self._ask(answer, gold)

    def _ask(self, answer: str, gold: str) -> bool:
        process = self._process if self._process is not None else self._start()
        stdin, stdout = _pipes(process)
        try:
            stdin.write(json.dumps([answer, gold]).encode() + b"\n")
            stdin.flush()
            said = _line(stdout, time.monotonic() + self._deadline)
        except BrokenPipeError:
            said = b""
        if said is None:
            self.timeouts += 1
        if not said:
            self._end()
        return said == b"true"

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._process = process
        if _line(_pipes(process)[1], time.monotonic() + STARTUP_SECONDS) != b"ready":
            self._end()
            raise EvaluationError("The process that compares answers did not start")
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in _pipes(process):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        process.wait()


def same_mathematics(
    pairs: Sequence[tuple[str | None, str]], deadline: float = DEADLINE_SECONDS
) -> list[bool]:
    """For each (extracted answer, gold) whether they are equal; no answer equals nothing."""
    with MathVerifier(deadline) as verifier:
        return [answer is not None and verifier.equal(answer, gold) for answer, gold in pairs]


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None and process.stdout is not None
    return process.stdin, process.stdout


def _line(pipe: IO[bytes], deadline: float) -> bytes | None:
    """The next line without its end; b"" at the end of the stream, None after the deadline."""
    collected = b""
    while not collected.endswith(b"\n"):
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        part = os.read(pipe.fileno(), 4096)
        if not part:
            return b""
        collected += part
    return collected.strip()
