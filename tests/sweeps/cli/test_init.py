"""A first configuration: `validate` accepts it, and nothing is ever written over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from sweeps.cli import app
from sweeps.config.load import load_config


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app.app, list(arguments))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def test_without_options_the_whole_embedded_world(here: Path) -> None:
    result = call("init", "first.yaml")
    assert result.exit_code == 0, result.output
    assert "python -m sweeps validate first.yaml" in result.stdout
    config = load_config("first.yaml")
    assert list(config.domains) == ["math", "code", "general"]
    assert config.name == "first"
    checked = call("validate", "first.yaml")
    assert checked.exit_code == 0, checked.output


def test_every_section_has_a_comment(here: Path) -> None:
    call("init", "first.yaml", "--domain", "math")
    text = (here / "first.yaml").read_text()
    assert text.count("#") > 15
    assert max(map(len, text.splitlines())) <= 99


def test_data_of_ones_own(sweep_files: Path) -> None:
    files = ["--train", "train.jsonl", "--validation", "validation.jsonl", "--test", "test.jsonl"]
    result = call("init", "own.yaml", "--model", "mini:model", "--domain", "sums", *files)
    assert result.exit_code == 0, result.output
    (domain,) = tree_of(sweep_files / "own.yaml")["domains"].items()
    assert domain[0] == "sums"
    assert domain[1]["benchmarks"] == [
        {"name": "exact_match", "validation": "validation.jsonl", "test": "test.jsonl"}
    ]
    assert call("validate", "own.yaml").exit_code == 0


def test_a_file_that_exists_stays(here: Path) -> None:
    (here / "mine.yaml").write_text("mine")
    result = call("init", "mine.yaml")
    assert result.exit_code == 2
    assert "already exists" in result.stderr
    assert (here / "mine.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["x.json"], "ends in .yaml"),
        (["x.yaml", "--domain", "maths"], "did you mean 'math'?"),
        (["x.yaml", "--domain", "math,cod"], "did you mean 'code'?"),
        (["x.yaml", "--model", "./absent"], "absent"),
        (["x.yaml", "--train", "t.jsonl"], "--train requires --validation and --test"),
        (["x.yaml", "--validation", "v.jsonl"], "--validation and --test require --train"),
        (["in valid.yaml"], "name"),
    ],
)
def test_a_mistake_writes_nothing(here: Path, arguments: list[str], says: str) -> None:
    result = call("init", *arguments)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(here.iterdir()) == []


def test_data_that_cannot_be_read_writes_nothing(sweep_files: Path) -> None:
    with (sweep_files / "train.jsonl").open("a") as file:
        file.write('{"prompt": "1"}\n')
    files = ["--train", "train.jsonl", "--validation", "validation.jsonl", "--test", "test.jsonl"]
    result = call("init", "own.yaml", "--domain", "sums", *files)
    assert result.exit_code == 2
    assert "train.jsonl, line 5" in result.stderr
    assert not (sweep_files / "own.yaml").exists()
