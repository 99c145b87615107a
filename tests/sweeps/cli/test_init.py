"""A first configuration: `validate` accepts it, and nothing is ever written over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from sweeps.cli import app
from sweeps.cli.row_format import guess_format
from sweeps.config.load import load_config
from sweeps.finetune.data_config import COLUMNS


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


TURNS = [{"role": "user", "content": "1 + 1 ="}, {"role": "assistant", "content": " 2"}]
SHARED = [{"from": "human", "value": "1 + 1 ="}, {"from": "gpt", "value": " 2"}]
FILES = ["--train", "rows.jsonl", "--validation", "validation.jsonl", "--test", "test.jsonl"]


def init_with(row: dict[str, Any], *options: str) -> Result:
    Path("rows.jsonl").write_text(json.dumps(row) + "\n")
    return call("init", "own.yaml", "--domain", "sums", *FILES, *options)


@pytest.mark.parametrize(
    ("row", "name", "columns"),
    [
        ({"question": "1 + 1 =", "answer": " 2"}, "prompt_response", ("question", "answer")),
        ({"completion": " 2", "prompt": "1 + 1 ="}, "prompt_response", ("prompt", "completion")),
        ({"instruction": "Add", "output": "2"}, "alpaca", ()),
        ({"messages": TURNS}, "messages", ()),
        ({"turns": TURNS, "n": [1]}, "messages", ("turns",)),
        ({"conversations": SHARED}, "sharegpt", ()),
    ],
)
def test_the_format_of_rows_is_guessed(
    sweep_files: Path, row: dict[str, Any], name: str, columns: tuple[str, ...]
) -> None:
    done = init_with(row)
    assert done.exit_code == 0, done.output
    given = dict(zip(COLUMNS[name], columns, strict=False))
    data = tree_of(sweep_files / "own.yaml")["domains"]["sums"]["data"]
    assert (data["format"], data.get("columns", {})) == (name, given)
    assert f"Training rows: format {name}" in done.stdout
    assert f"# Training rows: format {name}" in (sweep_files / "own.yaml").read_text()


def test_the_format_of_the_benchmark_comes_first(sweep_files: Path) -> None:
    row = {"question": "1 + 1?", "answer": "1 + 1 = 2\n#### 2"}
    (sweep_files / "rows.jsonl").write_text(json.dumps(row))
    assert guess_format("rows.jsonl", "gsm8k").name == "gsm8k"
    assert guess_format("rows.jsonl", "exact_match").name == "prompt_response"


def test_unknown_columns_say_which_option_names_them(sweep_files: Path) -> None:
    row = {"Frage": "1 + 1 =", "Antwort": " 2", "n": 1}
    refused = init_with(row)
    assert refused.exit_code == 2
    assert refused.stderr == (
        f"error: {sweep_files / 'rows.jsonl'}, line 1: expected the columns 'prompt' and "
        "'response', found Frage, Antwort, n. Run the same command with --column prompt=Frage "
        "--column response=Antwort, or with the --format of the rows\n"
    )
    done = init_with(row, "--column", "prompt=Frage", "--column", "response=Antwort")
    assert done.exit_code == 0, done.output
    assert "guessed" not in done.stdout
    data = tree_of(sweep_files / "own.yaml")["domains"]["sums"]["data"]
    assert data["columns"] == {"prompt": "Frage", "response": "Antwort"}
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
        (
            ["x.yaml", "--benchmark", "gsm8k"],
            "--benchmark, --validation and --test require --train",
        ),
        (["x.yaml", "--column", "prompt=q"], "--format and --column require --train"),
        (["x.yaml", "--column", "prompt"], "--column prompt: expected FIELD=COLUMN"),
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
