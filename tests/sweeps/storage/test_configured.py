"""An address as a sweep's storage: what the configuration and the commands make of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from sweeps.cli.app import app
from sweeps.config import load
from sweeps.config.load import load_config, parse_config, save_config
from sweeps.config.study_identity import study_definition
from sweeps.config.sweep_config import paths_for, resolve_paths
from sweeps.execution.preflight import check_inputs
from sweeps.storage.address import Address
from sweeps.storage.errors import UserError
from sweeps.storage.object_store import ObjectStore
from sweeps.storage.remote_sync import acquire_run
from tests.sweeps.conftest import Tree
from tests.sweeps.object_stores import FakeStore

CONFIGS = Path(load.__file__).parents[1] / "configs"


def test_the_folder_is_a_mirror_and_the_address_stays(tree: Tree, home: Path) -> None:
    config = resolve_paths(parse_config(tree | {"storage": "s3://bucket/team/"}))
    assert config.storage == "s3://bucket/team"
    place = paths_for(config)
    assert place.folder.is_relative_to(home / ".gmt-sweep" / "mirror")
    assert place.folder.name == config.name
    assert place.is_copied()


def test_a_secret_in_an_address_is_shown_nowhere(tree: Tree) -> None:
    with pytest.raises(UserError) as raised:
        parse_config(tree | {"storage": "s3://bucket/a?secret_key=hidden"})
    assert "storage: the address contains a secret" in str(raised.value)
    assert "hidden" not in str(raised.value)


def test_a_sweep_is_named_by_its_address_or_by_its_mirror(
    tree: Tree, bucket: Address, store: ObjectStore, home: Path
) -> None:
    config = resolve_paths(parse_config(tree | {"storage": str(bucket)}))
    place = paths_for(config)
    with acquire_run(place, print):
        save_config(config)
    named = str(bucket).replace("?", "/small?")
    assert resolve_paths(load_config(named)) == config
    assert resolve_paths(load_config(place.folder)) == config
    assert load_config(named, ["search.trials=7"]).search.trials == 7
    moved = home / "elsewhere" / "small"
    moved.parent.mkdir()
    place.folder.rename(moved)  # by hand: now it is a folder like another
    assert load_config(moved).storage == str(moved.parent)
    with pytest.raises(UserError, match="no sweep found"):
        load_config(str(bucket).replace("?", "/smal?"))
    with pytest.raises(UserError, match=r"STORAGE/NAME .*, here one of: small$"):
        load_config(str(bucket))
    with pytest.raises(UserError, match="STORAGE/NAME"):
        load_config("s3://bucket")


@pytest.mark.parametrize("command", ["validate", "run", "status", "plan", "resume", "stop"])
def test_a_store_that_does_not_answer_is_a_sentence(
    command: str, tree: Tree, server: FakeStore, home: Path, tmp_path: Path
) -> None:
    file, address = tmp_path / "sweep.yaml", server.address("sweeps/a")
    file.write_text(yaml.safe_dump(tree | {"storage": address}))
    with server.outage():
        said = CliRunner().invoke(app, [command, str(file)])
    assert said.exit_code == 2, said.output
    assert f"storage {address}" in said.stderr
    assert "it does not respond" in said.stderr
    assert "Traceback" not in said.output


def test_a_missing_bucket_is_a_sentence_and_leaves_nothing(
    tree: Tree, server: FakeStore, home: Path, tmp_path: Path
) -> None:
    storage = server.address("nobodys/a")
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(tree | {"storage": storage}))
    said = CliRunner().invoke(app, ["doctor", str(file)])
    assert said.exit_code == 1
    assert "no such bucket" in said.stdout
    assert not (home / ".gmt-sweep").exists()


def test_a_sweep_of_the_embedded_world_goes_on_by_its_address_on_a_new_machine(
    bucket: Address, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GMT_SWEEP_CACHE", raising=False)
    config = resolve_paths(load_config(CONFIGS / "mini.yaml", [f"storage={bucket}"]))
    defined = {name: study_definition(config, name) for name in config.domains}
    with acquire_run(paths_for(config), print):
        save_config(config)
    home.rename(tmp_path / "lost")
    monkeypatch.setenv("HOME", str(tmp_path / "other"))
    again = resolve_paths(load_config(str(bucket).replace("?", "/mini?")))
    check_inputs(again)
    assert {name: study_definition(again, name) for name in again.domains} == defined
    (first,) = {again.domains["math"].data.path} - {config.domains["math"].data.path}
    assert first.startswith(str(tmp_path / "other"))


def test_a_copy_of_the_records_that_is_torn_is_a_sentence(
    tree: Tree, bucket: Address, store: ObjectStore, home: Path
) -> None:
    config = resolve_paths(parse_config(tree | {"storage": str(bucket)}))
    with acquire_run(paths_for(config), print):
        save_config(config)
        store.put("small/optuna.db", b"SQLite format 3\0 torn")
    home.rename(home.with_name("lost"))
    said = CliRunner().invoke(app, ["status", str(bucket).replace("?", "/small?")])
    assert said.exit_code == 2, said.output
    assert "the database cannot be read" in said.stderr
