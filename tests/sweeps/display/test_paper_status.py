"""What `status` says of a paper: each of its studies, and what is still to begin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sweeps import cli
from tests.sweeps.driven import driven
from tests.sweeps.played import FINISHED, RUNNING, play

Tree = dict[str, Any]


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["status", "sweep.yaml", *arguments])


@pytest.fixture
def paper(sweep_files: Path, tree: Tree) -> Path:
    """A paper of two studies, the first of which has begun; returns the storage."""
    listed = tree | {"study": {"paper": ["search", "methods"]}}
    (sweep_files / "sweep.yaml").write_text(json.dumps(listed))
    (sweep_files / "search.yaml").write_text(json.dumps(listed | {"name": "small-search"}))
    play(FINISHED, RUNNING, source="search.yaml")
    return sweep_files / "runs"


def test_a_paper_that_runs(paper: Path) -> None:
    with driven(paper / "small", "paper") as whole, driven(paper / "small-search") as study:
        shown = call()
        plain = json.loads(call("--json").stdout)
    assert shown.exit_code == 0, shown.output
    for words in (
        f"`paper` runs small, by process {whole.pid}",
        f"small-search runs, by process {study.pid}",
        "1 of 3",
        "0.500",
        "running: sums trial 1",
        "still to begin: small-methods",
    ):
        assert words in shown.stdout
    assert "resume" not in shown.stdout
    assert (plain["name"], plain["state"]) == ("small", "running")
    (search,) = plain["studies"]
    assert search["domains"][0]["best"]["score"] == 0.5
    assert [run["number"] for run in search["domains"][0]["running"]] == [1]
    assert plain["to_come"] == ["small-methods"]


def test_a_paper_that_was_stopped_is_watched_once_and_says_how_to_go_on(paper: Path) -> None:
    shown = call("--watch").stdout
    assert "The paper small does not run." in shown
    assert "small-search does not run" in shown
    assert shown.endswith("to go on: python -m sweeps paper sweep.yaml\n")
    (line,) = call("--watch", "--json").stdout.splitlines()
    assert json.loads(line)["state"] == "stopped"


def test_a_paper_that_is_complete(paper: Path, tree: Tree) -> None:
    (paper.parent / "sweep.yaml").write_text(json.dumps(tree | {"study": {"paper": ["search"]}}))
    play(FINISHED, FINISHED, source="search.yaml")
    pages = [paper / "small-search" / "sums" / "report", paper / "small" / "paper"]
    for page in pages:
        page.mkdir(parents=True)
        (page / "report.html").touch()
    shown = call().stdout
    assert "The paper small is complete." in shown
    assert f"report over all: {pages[1] / 'report.html'}" in shown
    assert "to go on" not in shown


def test_a_study_whose_configuration_is_broken_is_named(paper: Path) -> None:
    stored = paper / "small-search" / "sweep.yaml"
    stored.write_text("nmae: small-search\n")
    asked = call()
    assert asked.exit_code == 2
    assert asked.stderr.startswith("error: ")
    assert str(stored.parent) in asked.stderr


def test_what_never_ran_is_no_paper(sweep_files: Path) -> None:
    asked = call()
    assert asked.exit_code == 2
    assert "no sweep named 'small'" in asked.stderr
