from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sweeps.mini import world
from sweeps.mini.world import WorldError, resolve

FIELDS = {
    "math": {"id", "prompt", "reference", "answer"},
    "code": {"id", "prompt", "reference", "tests", "entry_point"},
    "general_choice": {"id", "prompt", "choices", "answer"},
    "general_short": {"id", "prompt", "reference"},
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GMT_SWEEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_name_resolves_to_rows_of_its_shape() -> None:
    for name in world.names():
        path = Path(resolve(name))
        if name == "mini:model":
            assert (path / "config.json").is_file()
            continue
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        domain, file = name.removeprefix("mini:").split("/")
        if file == "train.jsonl":
            assert len(rows) == 2048
            assert set(rows[0]) == {"prompt", "response"}
        elif file == "text.jsonl":
            assert len(rows) == 64
            assert set(rows[0]) == {"text"}
        else:
            expected = {"validation.jsonl": 128, "test.jsonl": 200}
            assert len(rows) == expected[file]
            assert all(set(row) == FIELDS[domain] for row in rows)


def test_a_second_call_reads_the_same_file(cache: Path) -> None:
    first = Path(resolve("mini:math/test.jsonl"))
    before = first.stat().st_mtime_ns, first.read_bytes()
    second = Path(resolve("mini:math/test.jsonl"))
    assert second == first
    assert (second.stat().st_mtime_ns, second.read_bytes()) == before
    assert first.is_relative_to(cache)


def test_workers_that_ask_at_once_get_whole_files(cache: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(resolve, ["mini:general_short/test.jsonl"] * 8))
    (path,) = paths
    assert len(Path(path).read_text(encoding="utf-8").splitlines()) == 200
    assert not list(cache.rglob("*.partial"))


def test_other_paths_come_back_unchanged() -> None:
    for path in ("some/folder", "/data/train.jsonl", "minimal:model", ""):
        assert resolve(path) == path


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("mini:modle", "mini:model"),
        ("mini:maths/train.jsonl", "mini:math/train.jsonl"),
        ("mini:general_choices/test.json", "mini:general_choice/test.jsonl"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(WorldError, match=f"no '{wrong}'; did you mean '{near}'"):
        resolve(wrong)


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    monkeypatch.setenv("GMT_SWEEP_CACHE", str(blocker))
    with pytest.raises(WorldError, match=r"cannot write .*set GMT_SWEEP_CACHE"):
        resolve("mini:code/train.jsonl")


def test_every_path_of_the_world_has_its_name_again(tmp_path: Path) -> None:
    assert [world.name_of(resolve(name)) for name in world.names()] == list(world.names())
    for other in (str(tmp_path / "train.jsonl"), "owner/model", ""):
        assert world.name_of(other) == other
