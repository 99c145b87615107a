"""What `status` says of a paper: each of its studies, and what is still to begin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sweeps.cli import app
from sweeps.config.load import load_config, put_on_record
from sweeps.config.sweep_config import SweepConfig, paths_for, resolve_paths
from sweeps.execution.paper import PaperResult
from tests.sweeps.another_driver import another_driver
from tests.sweeps.played import FINISHED, RUNNING, play

Tree = dict[str, Any]


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app.app, ["status", *(arguments or ("sweep.yaml",))])


@pytest.fixture
def paper(sweep_files: Path, tree: Tree) -> Path:
    """A paper of two studies, the first of which has begun; returns the storage."""
    listed = tree | {"study": {"paper": ["search", "methods"]}}
    (sweep_files / "sweep.yaml").write_text(json.dumps(listed))
    (sweep_files / "search.yaml").write_text(json.dumps(listed | {"name": "small-search"}))
    play(FINISHED, RUNNING, source="search.yaml")
    (sweep_files / "runs" / "small").mkdir()
    put_on_record(resolve_paths(load_config("sweep.yaml")))
    return sweep_files / "runs"


def test_a_paper_that_runs(paper: Path) -> None:
    with another_driver(paper / "small") as whole, another_driver(paper / "small-search") as study:
        shown = call()
        plain = json.loads(call("sweep.yaml", "--json").stdout)["result"]
    assert shown.exit_code == 0, shown.output
    for words in (
        f"The paper small is running (process {whole.pid}",
        f"small-search is running (process {study.pid}",
        "1 of 3",
        "0.500",
        "running: sums trial 1",
        "not started yet: small-methods",
    ):
        assert words in shown.stdout
    assert "resume" not in shown.stdout
    assert (plain["name"], plain["state"]) == ("small", "running")
    (search,) = plain["studies"]
    assert search["domains"][0]["best"]["score"] == 0.5
    assert [run["number"] for run in search["domains"][0]["running"]] == [1]
    assert plain["to_come"] == ["small-methods"]


def test_a_paper_that_was_stopped_is_watched_once_and_says_how_to_go_on(paper: Path) -> None:
    shown = call("sweep.yaml", "--watch").stdout
    assert "The paper small is not running." in shown
    assert "small-search is not running" in shown
    assert shown.endswith(f"to continue:\n  python -m sweeps resume {paper / 'small'}\n")
    (line,) = call("sweep.yaml", "--watch", "--json").stdout.splitlines()
    assert json.loads(line)["result"]["state"] == "stopped"


def test_a_paper_that_is_complete(paper: Path, tree: Tree) -> None:
    (paper.parent / "sweep.yaml").write_text(json.dumps(tree | {"study": {"paper": ["search"]}}))
    put_on_record(resolve_paths(load_config("sweep.yaml")))
    play(FINISHED, FINISHED, source="search.yaml")
    pages = [paper / "small-search" / "sums" / "report", paper / "small" / "paper"]
    for page in pages:
        page.mkdir(parents=True, exist_ok=True)
        (page / "report.html").touch()
    shown = call().stdout
    assert "The paper small is complete." in shown
    assert f"report on all studies: {pages[1] / 'report.html'}" in shown
    assert "to continue" not in shown


def test_its_folder_says_that_it_is_a_paper(paper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(str(paper / "small")).stdout == call().stdout
    ran: list[SweepConfig] = []

    def run(config: SweepConfig, *given: object) -> PaperResult:
        ran.append(config)
        return PaperResult(Path("report.html"), stopped="")

    monkeypatch.setattr("sweeps.execution.paper.run", run)
    resumed = CliRunner().invoke(app.app, ["resume", str(paper / "small")])
    assert resumed.stdout == "report:\n  report.html\n"
    assert [config.name for config in ran] == ["small"]
    adopted = CliRunner().invoke(app.app, ["resume", str(paper / "small"), "--adopt"])
    assert adopted.exit_code == 2
    assert "--adopt is for one sweep" in adopted.stderr


def test_a_file_with_a_paper_says_how_to_plan_and_run_it(sweep_files: Path, tree: Tree) -> None:
    listed = tree | {"study": {"paper": ["search", "methods"]}}
    Path("paper.yaml").write_text(json.dumps(listed))
    (sweep_files / "runs").mkdir()
    for words, following in (
        (["plan"], "plan paper.yaml seed=1 --paper"),
        (["validate"], "paper paper.yaml seed=1"),
    ):
        shown = CliRunner().invoke(app.app, [*words, "paper.yaml", "seed=1"])
        assert shown.exit_code == 0, shown.output
        assert (
            "This is the study 'search' alone. For all studies of the paper (search, methods): "
            f"`python -m sweeps {following}`\n"
        ) in shown.stdout
        plain = CliRunner().invoke(app.app, [*words, "sweep.yaml"])
        assert "alone" not in plain.stdout
    stored = play(FINISHED, source="paper.yaml")
    folder = str(paths_for(stored).folder)
    assert "alone" not in CliRunner().invoke(app.app, ["plan", folder]).stdout


def test_a_sweep_of_the_same_name_keeps_its_folder(sweep_files: Path) -> None:
    config = play(FINISHED)
    stored = paths_for(config).config_file().read_text()
    put_on_record(config.model_copy(update={"seed": 7}))
    assert paths_for(config).config_file().read_text() == stored
    assert "small is not running: it was stopped" in call().stdout


@pytest.mark.parametrize("command", ["leaderboard", "report", "retry"])
def test_what_is_of_one_sweep_asks_for_a_study(paper: Path, command: str) -> None:
    options = ["--failed"] if command == "retry" else []
    asked = CliRunner().invoke(app.app, [command, str(paper / "small"), *options])
    assert asked.exit_code == 2
    assert (
        f"small is a paper: give one of its studies, such as {paper / 'small-search'}"
        in asked.stderr
    )


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
