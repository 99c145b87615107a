"""What the shell completes, asked as the shells ask."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from sweeps import cli
from sweeps.commands.completion import complete_override


def completed(*words: str) -> list[str]:
    """What bash offers for the last of ``words``."""
    asked = {
        "_GMT_SWEEP_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["gmt-sweep", *words]),
        "COMP_CWORD": str(len(words)),
    }
    result = CliRunner().invoke(cli.app, [], prog_name="gmt-sweep", env=asked)
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
        ("nothing.here", []),
        ("name.more", []),
    ],
)
def test_one_level_at_a_time(typed: str, offered: list[str]) -> None:
    assert complete_override(typed) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell: str) -> None:
    asked = {"_GMT_SWEEP_COMPLETE": f"source_{shell}"}
    result = CliRunner().invoke(cli.app, [], prog_name="gmt-sweep", env=asked)
    assert "_GMT_SWEEP_COMPLETE" in result.stdout
