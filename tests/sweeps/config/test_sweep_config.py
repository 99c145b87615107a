"""The configuration: what it accepts, what it refuses, and the trial that a point stands for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from sweeps.config.load import parse_config
from sweeps.config.sweep_config import resolve_paths
from sweeps.storage.errors import UserError

Tree = dict[str, Any]
POINT = {"mask_ratio": 0.2, "accumulation_interval": 2, "learning_rate": 1e-3}


def with_value(tree: Tree, place: str, value: Any) -> Tree:
    changed = copy.deepcopy(tree)
    here: Any = changed
    *parents, last = place.split(".")
    for part in parents:
        here = here.setdefault(part, {}) if isinstance(here, dict) else here[int(part)]
    here[last] = value
    return changed


def test_a_point_becomes_the_run_it_stands_for(tree: Tree) -> None:
    run = parse_config(tree).trial("sums", POINT)
    assert (run.method.name, run.method.mask_ratio) == ("gmt", 0.2)
    assert (run.accumulation_interval, run.learning_rate) == (2, 1e-3)
    assert run.steps(workers=1) == 64 // (2 * 8)
    assert run.steps(workers=2) == 64 // (2 * 8 * 2)


def test_ratio_zero_is_sft_whatever_the_method(tree: Tree) -> None:
    config = parse_config(with_value(tree, "training.method", "random"))
    assert config.trial("sums", {**POINT, "mask_ratio": 0.0}).method.name == "sft"
    assert config.trial("sums", POINT).method.name == "random"


def test_the_seed_of_a_point_wins_over_the_sweeps(tree: Tree) -> None:
    config = parse_config({**tree, "seed": 5})
    assert config.trial("sums", POINT).seed == 5
    assert config.trial("sums", {**POINT, "seed": 9}).seed == 9


def test_a_domain_may_have_its_own_examples_and_space(tree: Tree) -> None:
    own = {"mask_ratio": 0.5, "accumulation_interval": 4, "learning_rate": 1e-3}
    changed = with_value(with_value(tree, "domains.sums.examples", 32), "domains.sums.space", own)
    config = parse_config(changed)
    assert config.trial("sums", POINT).examples == 32
    assert config.space_of("sums").accumulation_interval.values() == (4,)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("training.examples", 65, ["domain 'sums'", "multiple of the effective batch 8", "65"]),
        ("training.batch", {"fixed": "global_batch", "mini_batch": 8}, ["batch.fixed"]),
        ("training.batch.mini_batch", 0, ["training.batch.mini_batch", "got 0"]),
        ("training.warmup_ratio", 1.5, ["training.warmup_ratio", "1.5"]),
        ("training.weight_decay", float("inf"), ["weight_decay", "finite"]),
        ("seed", -1, ["seed", "-1"]),
        ("name", "two words", ["name", "two words"]),
        ("domains", {}, ["domains"]),
        ("domains.a/b", {}, ["domains.a/b"]),
        ("resources.workers", 3, ["effective batch 24", "workers 3"]),
        ("search.trials", 0, ["search.trials", "got 0"]),
        ("search.sampler", "tpee", ["search.sampler", "did you mean 'tpe'?"]),
        (
            "search.start",
            [{"mask_ratio": 0.25}],
            ["search.start: mask_ratio 0.25", "steps of 0.1"],
        ),
        (
            "search.start",
            [{"accumulation_interval": 3}],
            ["search.start: accumulation_interval 3"],
        ),
        ("search.scheduler.nme", "asha", ["search.scheduler.nme", "did you mean 'name'?"]),
        ("domains.sums.data.pth", "x", ["domains.sums.data.pth", "did you mean 'path'?"]),
    ],
)
def test_refused_with_the_place_in_one_paragraph(
    tree: Tree, place: str, value: Any, words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        parse_config(with_value(tree, place, value))
    message = str(caught.value)
    assert "\n" not in message
    assert "validation error" not in message
    for word in words:
        assert word in message


def test_a_benchmark_twice_in_one_domain_is_refused(tree: Tree) -> None:
    tree["domains"]["sums"]["benchmarks"] *= 2
    with pytest.raises(UserError, match="expected each name once") as caught:
        parse_config(tree)
    assert "\n" not in str(caught.value)


def test_paths_are_made_absolute_from_the_data_root(tree: Tree, tmp_path: Path) -> None:
    changed = with_value(tree, "domains.sums.data.path", "a.jsonl, b.jsonl")
    config = resolve_paths(parse_config({**changed, "data_root": str(tmp_path)}))
    assert config.domains["sums"].data.path == f"{tmp_path / 'a.jsonl'},{tmp_path / 'b.jsonl'}"
    assert config.domains["sums"].benchmarks[0].test == str(tmp_path / "test.jsonl")
    assert Path(config.storage).is_absolute()
    assert (Path(config.model.path) / "config.json").is_file()
    assert resolve_paths(config) == config


def test_a_hub_name_is_left_alone(tree: Tree) -> None:
    config = resolve_paths(parse_config(with_value(tree, "model.path", "owner/model")))
    assert config.model.path == "owner/model"


def test_training_files_in_a_folder_with_a_comma_are_refused(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a,b"
    folder.mkdir()
    (folder / "train.jsonl").write_text("")
    with pytest.raises(
        UserError, match=r"data\.path train\.jsonl: .* contains ',', which separates"
    ):
        resolve_paths(parse_config(tree | {"data_root": str(folder)}))
    monkeypatch.setenv("GMT_SWEEP_CACHE", str(folder))
    tree["domains"]["sums"]["data"] = {"path": "mini:math/train.jsonl"}
    with pytest.raises(UserError, match="GMT_SWEEP_CACHE"):
        resolve_paths(parse_config(tree))


def test_a_key_that_is_no_string_is_refused_by_name(tree: Tree) -> None:
    numbered: Any = {**tree, 1: 2}
    with pytest.raises(UserError, match="1: Keys should be strings"):
        parse_config(numbered)
