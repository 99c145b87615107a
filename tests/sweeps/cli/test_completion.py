"""What the shell completes, asked as the shells ask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.cli.arguments import complete_override


def completed(*words: str) -> list[str]:
    """What bash offers for the last of ``words``."""
    asked = {
        "_GMT_SWEEP_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["gmt-sweep", *words]),
        "COMP_CWORD": str(len(words)),
    }
    result = CliRunner().invoke(app.app, [], prog_name="gmt-sweep", env=asked)
    return result.stdout.split()


def test_commands_and_options() -> None:
    assert completed("le") == ["leaderboard"]
    assert completed("status", "--wa") == ["--watch"]
    assert {"run", "resume", "retry", "report"} <= set(completed("r"))


def test_keys_of_overrides() -> None:
    assert completed("run", "my.yaml", "search.tr") == ["search.trials="]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("sea", ["search."]),
        ("search.sche", ["search.scheduler."]),
        ("search.scheduler.gr", ["search.scheduler.grace_checks="]),
        ("hooks.on_end.web", ["hooks.on_end.webhook="]),
        ("space.mask_ratio.w", ["space.mask_ratio.when="]),
        ("nothing.here", []),
        ("name.more", []),
    ],
)
def test_one_level_at_a_time(typed: str, offered: list[str]) -> None:
    assert complete_override(typed) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell: str) -> None:
    asked = {"_GMT_SWEEP_COMPLETE": f"source_{shell}"}
    result = CliRunner().invoke(app.app, [], prog_name="gmt-sweep", env=asked)
    assert "_GMT_SWEEP_COMPLETE" in result.stdout


@pytest.fixture
def home(tmp_path: Path, root: Path) -> dict[str, str]:
    """The environment of somebody who has `gmt-sweep` and an empty home."""
    script = tmp_path / "bin" / "gmt-sweep"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nfrom sweeps.cli.app import main\n\nmain()\n")
    script.chmod(0o755)
    path = f"{script.parent}{os.pathsep}{os.environ['PATH']}"
    # Otherwise the shell is the one that the tests were started from.
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    return os.environ | {"HOME": str(tmp_path), "PATH": path, "PYTHONPATH": str(root)} | named


ASK_BASH = """
source ~/.bashrc
COMP_WORDS=(gmt-sweep le) COMP_CWORD=1
$(complete -p gmt-sweep | sed 's/.* -F \\([^ ]*\\) .*/\\1/') gmt-sweep
echo "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("door", [["gmt-sweep"], [sys.executable, "-m", "sweeps"]])
def test_bash_completes_once_it_is_installed(home: dict[str, str], door: list[str]) -> None:
    """By whichever door: `python -m sweeps` would install a completion of `python`."""
    subprocess.run([*door, "--install-completion", "bash"], env=home, check=True)
    asked = subprocess.run(
        ["bash", "-c", ASK_BASH], env=home, capture_output=True, text=True, check=True
    )
    assert asked.stdout.split() == ["leaderboard"]
    assert asked.stderr == ""


def test_zsh_is_installed_and_answered(home: dict[str, str]) -> None:
    command = [sys.executable, "-m", "sweeps", "--install-completion", "zsh"]
    subprocess.run(command, env=home, check=True)
    folder = Path(home["HOME"])
    assert "fpath+=~/.zfunc" in (folder / ".zshrc").read_text()
    assert (folder / ".zfunc" / "_gmt-sweep").read_text().startswith("#compdef gmt-sweep\n")
    asked = {"_GMT_SWEEP_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "gmt-sweep le"}
    result = CliRunner().invoke(app.app, [], prog_name="gmt-sweep", env=asked)
    assert '"leaderboard":"Show the best trials per domain' in result.stdout
