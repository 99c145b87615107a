"""Sweeps that gmt-sweep 0.1.0 ran, and its one key that has another name now."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
import yaml
from typer.testing import CliRunner

from sweeps.cli.app import app
from sweeps.config.load import load_config
from sweeps.config.study_identity import DEFINITION
from sweeps.config.sweep_config import paths_for
from sweeps.storage.errors import UserError
from tests.sweeps.conftest import Tree
from tests.sweeps.played import FINISHED, play

COMMANDS = ("run", "resume", "status", "report", "leaderboard", "export", "retry")


def refusal(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 2, done.output
    return done.stderr


def with_schema(schema: int) -> Path:
    """The folder of a sweep on record, whose study has this schema."""
    place = paths_for(play(FINISHED))
    study = optuna.load_study(study_name="small/sums", storage=place.optuna_url())
    study.set_user_attr(DEFINITION, {**study.user_attrs[DEFINITION], "schema": schema})
    return place.folder


def with_old_key(folder: Path) -> None:
    """Its configuration as 0.1.0 wrote it."""
    file = folder / "sweep.yaml"
    tree = yaml.safe_load(file.read_text())
    tree["training"]["batch"]["hold"] = tree["training"]["batch"].pop("fixed")
    file.write_text(yaml.safe_dump(tree))


def options(command: str) -> list[str]:
    return {"export": ["out"], "retry": ["--failed"]}.get(command, [])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_the_version_that_reads_an_old_sweep(
    sweep_files: Path, command: str
) -> None:
    folder = with_schema(2)
    before = (folder / "optuna.db").read_bytes()
    for source in ("sweep.yaml", str(folder)):  # a study of another schema
        said = refusal(command, source, *options(command))
        assert f"{folder}: gmt-sweep 0.1.0 ran this sweep" in said, (command, source)
        assert "run its YAML file under another name, for example name=small2" in said
    with_old_key(folder)
    said = refusal(command, str(folder), *options(command))
    assert f"{folder}: gmt-sweep 0.1.0 ran this sweep" in said
    assert (folder / "optuna.db").read_bytes() == before


def test_no_option_mixes_trials_of_two_versions(sweep_files: Path) -> None:
    with_schema(2)
    assert "gmt-sweep 0.1.0 ran this sweep" in refusal("run", "sweep.yaml", "--adopt")


def test_a_sweep_of_a_version_to_come_asks_for_it(sweep_files: Path) -> None:
    with_schema(99)
    assert "a newer version of gmt-sweep ran this sweep" in refusal("status", "sweep.yaml")


@pytest.mark.parametrize(
    ("given", "example"),
    [
        ("global_batch", "global_batch"),
        ("mini_batch", "mini_batch"),
        ("both", "mini_batch"),  # no value of the new key either
        (["mini_batch"], "mini_batch"),
    ],
)
def test_the_old_key_is_refused_with_the_new_one(
    sweep_files: Path, tree: Tree, given: object, example: str
) -> None:
    tree["training"]["batch"]["hold"] = given
    (sweep_files / "sweep.yaml").write_text(json.dumps(tree))
    with pytest.raises(UserError) as refused:
        load_config("sweep.yaml")
    assert str(refused.value) == (
        "sweep.yaml: unknown key 'training.batch.hold': since 0.2.0 it is "
        f"'training.batch.fixed', for example fixed: {example}"
    )


def test_the_old_key_is_refused_in_single_runs_and_overrides(sweep_files: Path) -> None:
    for command, source, key in (
        ("finetune", "run.yaml", "batch.hold"),
        ("validate", "sweep.yaml", "training.batch.hold"),
    ):
        (sweep_files / "run.yaml").write_text("batch: {mini_batch: 8}")
        said = refusal(command, source, f"{key}=global_batch")
        now = key.replace("hold", "fixed")
        assert (
            f"unknown key '{key}': since 0.2.0 it is '{now}', for example fixed: global_batch"
            in said
        )
