"""Output that nobody reads any more changes neither what a command does nor how it ends."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sweeps.execution.progress import LineDisplay, LiveDisplay
from sweeps.execution.study_tally import Tally
from sweeps.finetune.reporter import Check
from sweeps.finetune.run_progress import ProgressReporter
from sweeps.storage.terminal_output import heard, is_heard

PROGRAM = f"{sys.executable} -m sweeps"
ROOT = str(Path(__file__).parents[3])


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash; the exit code is that of the first command of a pipe."""
    return subprocess.run(
        ["bash", "-c", f"{line}\nexit ${{PIPESTATUS[0]}}"],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (f"{PROGRAM} plan sweep.yaml | head -1", 0),
        (f"{PROGRAM} plan sweep.yaml | true", 0),
        (f"{PROGRAM} plan sweep.yaml >&-", 0),
        (f"{PROGRAM} plan sweep.yaml >&- 2>&- <&-", 0),
        (f"{PROGRAM} plan sweep.yaml --json | head -c 3", 0),
        (f"{PROGRAM} run --help | true", 0),
        (f"{PROGRAM} plan sweep.yaml search.trails=4 2>&1 | true", 2),
        (f"{PROGRAM} plan sweep.yaml search.trails=4 >&- 2>&-", 2),
        (f"{PROGRAM} nosuch 2>&1 | true", 2),
    ],
)
def test_a_command_ends_as_it_would_with_a_reader(sweep_files: Path, line: str, code: int) -> None:
    ended = shell(line)
    assert ended.returncode == code
    assert ended.stderr == ""


@pytest.mark.parametrize("command", ["plan sweep.yaml", "--help"])
def test_a_full_disk_is_named(sweep_files: Path, command: str) -> None:
    ended = shell(f"{PROGRAM} {command} > /dev/full")
    assert ended.returncode == 1
    assert ended.stderr == "error: the output cannot be written: No space left on device\n"


def test_what_is_printed_gets_into_no_file(tmp_path: Path) -> None:
    """With descriptor 1 closed the next file that is opened would get what is printed."""
    script = (
        "import os, subprocess, sys\n"
        "from sweeps.storage.terminal_output import heard_program\n"
        "with heard_program():\n"
        f"    with open({str(tmp_path / 'file')!r}, 'w') as file:\n"
        "        assert file.fileno() > 2\n"
        "        print('printed')\n"
        "        subprocess.run(['echo', 'by a child'], check=True)\n"
    )
    (tmp_path / "script.py").write_text(script)
    assert shell(f"{sys.executable} {tmp_path / 'script.py'} >&- 2>&- <&-").returncode == 0
    assert (tmp_path / "file").read_text() == ""


def unread() -> io.TextIOWrapper:
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def test_a_watcher_learns_that_nobody_reads() -> None:
    with unread() as stream:
        output = heard(stream)
        assert is_heard(output)
        print("one", file=output, flush=True)
        assert not is_heard(output)
        print("two", file=output, flush=True)
    assert is_heard(sys.stdout)


def test_displays_go_on_when_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally("sums", 3, 0)
    with unread() as stream:
        lines = LineDisplay(stream)
        lines.say("one")
        lines.say("two")
    with unread() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        live = LiveDisplay()
        live.say("one")
        live.show(tally)
        live.close()
    with unread() as stream:
        progress = ProgressReporter(2, stream)
        progress.step(1, {"train/loss": 1.0})
        check: Any = Check(score=0.5, step=1, steps=2, metrics={}, done=False)
        assert progress.check(check)
        progress.close()


def test_a_full_disk_is_no_closed_pipe() -> None:
    with suppress(OSError), Path("/dev/full").open("w") as full:  # it fails to close, too
        with pytest.raises(OSError, match="No space"):
            print("one", file=heard(full), flush=True)
        assert is_heard(heard(full))
