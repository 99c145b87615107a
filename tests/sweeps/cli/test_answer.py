"""One document for programs from every command: its form, its schema, its errors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner, Result

from sweeps.cli.answer import Answer, Problem, as_command, schema_of
from sweeps.cli.app import COMMANDS, app
from tests.sweeps.played import FINISHED, OOM, STOPPED, play

ALL = {name: function for panel in COMMANDS.values() for name, function in panel.items()}


def call(*words: str) -> Result:
    return CliRunner().invoke(app, [*words])


def document(done: Result, command: str) -> dict[str, Any]:
    """The only line on standard output, which the command's schema describes."""
    (line,) = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    jsonschema.validate(found, schema_of(ALL[command]))
    assert found["command"] == command
    assert done.exit_code == (found["error"] or {"exit_code": 0})["exit_code"]
    return found


@pytest.mark.parametrize("command", ALL)
def test_every_command_has_a_schema(command: str) -> None:
    done = call("schema", command)
    assert done.exit_code == 0, done.output
    schema = json.loads(done.stdout)
    assert set(schema["properties"]) == {"version", "command", "result", "next", "error"}
    assert schema["properties"]["result"] != {}, "the result has no type"
    document(call("schema", command, "--json"), "schema")


@pytest.mark.parametrize(
    "words",
    [
        ["init", "new.yaml", "--model", "mini:model", "--domain", "math"],
        ["validate", "sweep.yaml"],
        ["plan", "sweep.yaml"],
        ["doctor", "sweep.yaml"],
        ["status", "sweep.yaml"],
        ["stop", "sweep.yaml"],
        ["retry", "sweep.yaml", "--failed"],
        ["leaderboard", "sweep.yaml"],
        ["report", "sweep.yaml"],
        ["export", "sweep.yaml", "out"],
    ],
    ids=lambda words: words[0],
)
def test_documents_follow_their_schema(sweep_files: Path, words: list[str]) -> None:
    play(FINISHED, OOM, STOPPED)
    found = document(call(*words, "--json"), words[0])
    assert found["result"] is not None or words[0] == "stop"
    assert all(each.startswith("python -m sweeps ") for each in found["next"])


@pytest.mark.parametrize(
    ("words", "place", "suggestion"),
    [
        (["validate", "sweep.yaml", "search.trails=4"], "search.trails", "trials"),
        (["plan", "sweep.yaml", "search.trials=x"], "search.trials", None),
        (["run", "swep.yaml"], "swep.yaml", "sweep.yaml"),
        (["export", "runs/small", "out"], "domain 'sums'", None),
        (["retry", "runs/small", "--kind", "oum"], "--kind oum", "oom"),
        (["status", "sweep.yaml", "--wach"], None, "--watch"),
        (["schema", "stauts"], None, "status"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else None,
)
def test_a_mistake_has_its_place_and_a_suggestion(
    sweep_files: Path, words: list[str], place: str | None, suggestion: str | None
) -> None:
    play(OOM)
    said, plain = call(*words, "--json"), call(*words)
    error = document(said, words[0])["error"]
    assert (error["place"], error["suggestion"]) == (place, suggestion)
    assert (error["exit_code"], said.stderr) == (plain.exit_code, "")
    assert plain.stderr == f"error: {error['message']}\n"


def test_a_key_that_is_missing_is_the_place() -> None:
    found = Problem.of("sweep.yaml: 'model.path' is missing; 'domains' is missing", 2)
    assert (found.place, found.exit_code) == ("model.path", 2)


def chatty(value: float = 0.5) -> Answer[dict[str, float]]:
    """A command that speaks while it works."""
    print("working")
    return Answer({"value": value}, ["done:"], ("python -m sweeps next",))


def test_progress_is_no_part_of_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    command = as_command("chatty", chatty)
    assert command(as_json=True) == 0
    said = capsys.readouterr()
    assert (json.loads(said.out)["result"], said.err) == ({"value": 0.5}, "working\n")
    assert command(as_json=False) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("working\ndone:\n  python -m sweeps next\n", "")


def test_a_number_that_is_not_finite_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    as_command("chatty", chatty)(as_json=True, value=math.nan)
    found = json.loads(capsys.readouterr().out)
    assert found["result"] == {"value": None}
    jsonschema.validate(found, schema_of(chatty))


def partly() -> Iterator[Answer[int]]:
    """One answer after another, and then a problem."""
    yield Answer(1, ["one"])
    yield Answer(2, ["two"], problem=Problem.of("the rest is missing", 1))


def test_several_answers_are_several_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert as_command("partly", partly)(as_json=True) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["result"], first["error"]) == (1, None)
    assert (second["result"], second["error"]["message"]) == (2, "the rest is missing")
    assert as_command("partly", partly)(as_json=False) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("one\ntwo\n", "error: the rest is missing\n")


def test_the_version_and_a_short_help() -> None:
    version = call("--version")
    assert version.exit_code == 0 and version.stdout.startswith("gmt-sweep 0.")
    for words in ((), ("status",)):
        short = call(*words, "-h")
        assert short.stdout == call(*words, "--help").stdout
        assert "Usage: python -m sweeps" in short.stdout
