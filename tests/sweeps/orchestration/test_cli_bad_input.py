"""Every mistake ends in one paragraph and exit code 2, before anything has been started."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
import ray
from typer.testing import CliRunner, Result

from sweeps import cli
from sweeps.config import resolve_paths
from sweeps.load import load_config
from sweeps.study import open_study


def nothing(folder: Path) -> None:
    """The files are as they should be."""


def append(name: str, line: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with (folder / name).open("a") as file:
            file.write(line + "\n")

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def replace(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(text)

    return change


def repeat_key(folder: Path) -> None:
    text = (folder / "sweep.yaml").read_text()
    (folder / "sweep.yaml").write_text('{"name": "first", ' + text.lstrip("{"))


def empty_folder(folder: Path) -> None:
    (folder / "no_model").mkdir()


def code_benchmark(sandbox: str) -> str:
    paths = "validation: validation.jsonl, test: test.jsonl"
    return f"domains.sums.benchmarks=[{{name: pass_at_1, {paths}, sandbox: {sandbox}}}]"


@dataclass(frozen=True)
class Mistake:
    """What is typed after the file's name, what is wrong with the files, what must be said."""

    says: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    change: Callable[[Path], None] = nothing


MISTAKES = {
    "unknown key": Mistake(
        ("unknown key 'search.trails'", "did you mean 'trials'?"), ("search.trails=4",)
    ),
    "unknown key at the top": Mistake(("unknown key 'modle'", "'model'"), ("modle.path=x",)),
    "ratio 1.0": Mistake(
        ("mask_ratio 1.0", "expected a fraction in [0, 1)"), ("space.mask_ratio=1.0",)
    ),
    "ratio -0.1": Mistake(
        ("mask_ratio -0.1", "expected a fraction in [0, 1)"), ("space.mask_ratio=-0.1",)
    ),
    "batch that does not divide": Mistake(
        ("examples", "multiple of the effective batch 24", "got 64"),
        ("space.accumulation_interval=[1, 3]",),
    ),
    "global batch that does not divide": Mistake(
        ("global_batch", "2 x 4 = 8", "got 12"),
        (
            "training.batch={hold: global_batch, global_batch: 12}",
            "training.examples=48",
            "space.accumulation_interval=2",
            "resources.workers=4",
        ),
    ),
    "missing data file": Mistake(("train.jsonl",), (), remove("train.jsonl")),
    "data file with a broken row": Mistake(
        ("train.jsonl, line 5", "expected one JSON object"),
        (),
        append("train.jsonl", '{"prompt": "1'),
    ),
    "data file with a field missing": Mistake(
        ("train.jsonl, line 5", "response"), (), append("train.jsonl", '{"prompt": "1"}')
    ),
    "empty data file": Mistake(("train.jsonl",), (), replace("train.jsonl", "")),
    "benchmark file with a broken row": Mistake(
        ("validation.jsonl:5",), (), append("validation.jsonl", "{")
    ),
    "benchmark file with a field missing": Mistake(
        ("validation.jsonl:5", "answer"), (), append("validation.jsonl", '{"id": "x"}')
    ),
    "missing benchmark file": Mistake(("validation.jsonl",), (), remove("validation.jsonl")),
    "missing test file": Mistake(("test.jsonl", "exact_match"), (), remove("test.jsonl")),
    "model folder that is not one": Mistake(
        ("no_model", "config.json"), ("model.path=./no_model",), empty_folder
    ),
    "model folder that is absent": Mistake(
        ("absent", "model folder"), ("model.path=./absent",), nothing
    ),
    "model that is a file": Mistake(("train.jsonl",), ("model.path=train.jsonl",)),
    "MLflow that does not answer": Mistake(
        ("http://127.0.0.1:9", "does not answer"), ("tracking.uri=http://127.0.0.1:9",)
    ),
    "tracking address of no known kind": Mistake(("ftp://x",), ("tracking.uri=ftp://x",)),
    "storage below a file": Mistake(
        ("storage", "cannot be written"), ("storage=train.jsonl/below",)
    ),
    "storage that is a file": Mistake(("storage", "cannot be written"), ("storage=train.jsonl",)),
    "unknown benchmark": Mistake(
        ("'exact_mach'", "'exact_match'"), ("domains.sums.benchmarks.0.name=exact_mach",)
    ),
    "unknown metric": Mistake(
        ("'acuracy'", "'accuracy'"), ("domains.sums.benchmarks.0.metric=acuracy",)
    ),
    "unknown sampler": Mistake(("search.sampler", "'tpe'"), ("search.sampler=tpee",)),
    "unknown data format": Mistake(
        ("domains.sums.data.format", "'alpaca'"), ("domains.sums.data.format=alpacca",)
    ),
    "unknown sandbox level": Mistake(
        ("sandbox level 'rlimit'", "rlimits"), (code_benchmark("rlimit"),)
    ),
    "override without =": Mistake(("'search.trials'", "key=value"), ("search.trials",)),
    "key that stands twice": Mistake(("the key 'name' stands twice",), (), repeat_key),
    "YAML that is a list": Mistake(("found list",), (), replace("sweep.yaml", "- a\n- b\n")),
    "no YAML": Mistake(("not valid YAML",), (), replace("sweep.yaml", "a: [1\n")),
    "missing configuration": Mistake(
        ("no such configuration file", "mini.yaml"), (), remove("sweep.yaml")
    ),
    "unknown mini: name": Mistake(
        ("'mini:math/trian.jsonl'", "'mini:math/train.jsonl'"),
        ("domains.sums.data.path=mini:math/trian.jsonl",),
    ),
    "starting point outside of the space": Mistake(
        ("start: mask_ratio 0.95",), ("search.start=[{mask_ratio: 0.95}]",)
    ),
}


@pytest.fixture(autouse=True)
def no_ray() -> Iterator[None]:
    assert not ray.is_initialized()
    yield
    assert not ray.is_initialized()


def call(command: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli.app, [command, *arguments])


def recorded(domain: str) -> optuna.Study:
    """The domain's study in the storage, made as a run makes it."""
    return open_study(resolve_paths(load_config("sweep.yaml")), domain)


def assert_refused(result: Result) -> str:
    """One paragraph on stderr, nothing on stdout; returns it."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    message = result.stderr
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert message.endswith("\n")
    for noise in ("Traceback", "validation error", "pydantic", "UserError"):
        assert noise not in message
    return message


@pytest.mark.parametrize("command", ["run", "validate"])
@pytest.mark.parametrize("name", MISTAKES)
def test_refused_before_anything_starts(sweep_files: Path, command: str, name: str) -> None:
    mistake = MISTAKES[name]
    mistake.change(sweep_files)
    before = {path.relative_to(sweep_files) for path in sweep_files.rglob("*")}
    message = assert_refused(call(command, "sweep.yaml", *mistake.overrides))
    for words in mistake.says:
        assert words in message
    # No storage, no tracking database, no half-made study.
    assert {path.relative_to(sweep_files) for path in sweep_files.rglob("*")} == before


def test_without_a_mistake_validate_agrees_and_leaves_nothing(sweep_files: Path) -> None:
    before = set(sweep_files.rglob("*"))
    result = call("validate", "sweep.yaml", "space.mask_ratio=[0, 0.2]")
    assert result.exit_code == 0, result.output
    assert "3 trials over sums" in result.stdout
    assert "python -m sweeps run sweep.yaml 'space.mask_ratio=[0, 0.2]'" in result.stdout
    assert set(sweep_files.rglob("*")) == before


@pytest.mark.parametrize("command", ["run", "validate", "report", "leaderboard"])
def test_another_search_space_under_the_same_name(sweep_files: Path, command: str) -> None:
    study = recorded("sums")
    message = assert_refused(call(command, "sweep.yaml", "space.mask_ratio=[0, 0.2]"))
    assert "a study named 'small' with another definition" in message
    assert "space.mask_ratio" in message
    assert "jsonl" not in message  # only what differs is named
    assert "name=small2" in message
    assert study.trials == []
    assert not (sweep_files / "runs" / "mlflow.db").exists()


def test_more_trials_of_the_same_study_are_no_mistake(sweep_files: Path) -> None:
    recorded("sums")
    assert call("validate", "sweep.yaml", "search.trials=30").exit_code == 0


def test_one_changed_domain_stops_the_others_too(sweep_files: Path) -> None:
    recorded("sums")
    tree = json.loads((sweep_files / "sweep.yaml").read_text())
    tree["domains"] = {"first": tree["domains"]["sums"], "sums": tree["domains"]["sums"]}
    tree["domains"]["sums"] = {**tree["domains"]["sums"], "examples": 32}
    (sweep_files / "sweep.yaml").write_text(json.dumps(tree))
    assert "domain.examples was None, now 32" in assert_refused(call("run", "sweep.yaml"))
    storage = f"sqlite:///{sweep_files / 'runs' / 'small' / 'optuna.db'}"
    assert optuna.get_all_study_names(storage) == ["small/sums"]


@pytest.mark.parametrize("command", ["report", "leaderboard"])
def test_nothing_to_show_yet(sweep_files: Path, command: str) -> None:
    message = assert_refused(call(command, "sweep.yaml"))
    assert "no sweep named 'small'" in message
    assert not (sweep_files / "runs").exists()


def test_test_items_are_not_read_beforehand(sweep_files: Path) -> None:
    (sweep_files / "test.jsonl").write_text("no JSON at all\n")
    assert call("validate", "sweep.yaml").exit_code == 0
