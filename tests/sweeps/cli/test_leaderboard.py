"""The best trials of a sweep, as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from sweeps.cli.app import app
from tests.sweeps.played import FINISHED, OOM, RUNNING, STOPPED, play


def shown(*options: str) -> str:
    result = CliRunner().invoke(app, ["leaderboard", "sweep.yaml", *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_what_ran_to_its_end_comes_first_whatever_others_had_on_the_way(sweep_files: Path) -> None:
    play(STOPPED | {"score": 0.9}, OOM, FINISHED | {"score": 0.25}, FINISHED, RUNNING)
    numbers = [row["number"] for row in json.loads(shown("--json"))["result"]["sums"]]
    assert numbers == [3, 2, 0, 4, 1]
    lines = [line.split() for line in shown().splitlines() if line.startswith("\u2502")]
    assert [line[3] for line in lines] == [str(number) for number in numbers]
    assert lines[0][5] == "0.500"
    assert lines[0][-2] == "12"
    assert lines[3][-3:] == ["running", "\u2502", "\u2502"]  # nobody knows its seconds yet


def test_it_names_the_method_where_that_is_not_gmt(
    sweep_files: Path, tree: dict[str, Any]
) -> None:
    training = tree["training"] | {"method": "random"}
    (sweep_files / "sweep.yaml").write_text(json.dumps(tree | {"training": training}))
    play(FINISHED)
    board = shown()
    assert "random        mask 0." in board
    assert "N: accumulation interval" in board
    assert max(map(len, board.splitlines())) <= 80
