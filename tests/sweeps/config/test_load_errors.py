"""The configuration's file and its overrides, and what is said when they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.config.load import load_config
from sweeps.storage.errors import UserError, nearest


def test_overrides_reach_every_kind_of_place(sweep_files: Path) -> None:
    config = load_config(
        sweep_files / "sweep.yaml",
        [
            "search.trials=7",
            "search.scheduler.name=asha",  # a mapping that the file does not have
            "space.mask_ratio=[0, 0.2, 0.4]",
            "domains.sums.benchmarks.0.limit=5",
            "training.clip_norm=null",
            "model.path=a=b",
        ],
    )
    assert config.search.trials == 7
    assert config.search.scheduler.name == "asha"
    assert config.space.mask_ratio.values() == (0, 0.2, 0.4)
    assert config.domains["sums"].benchmarks[0].limit == 5
    assert config.training.clip_norm is None
    assert config.model.path == "a=b"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("search.trials", "expected key=value"),
        ("=4", "expected key=value"),
        ("search.trials=[1", "not valid YAML"),
        ("search.trails=4", "did you mean 'trials'?"),
        ("search.trials.more=4", "holds a single value"),
        ("search.trials.more.yet=4", "the key above 'more' holds a single value"),
        ("domains.sums.benchmarks.1.limit=5", "not an index into a list of 1"),
        ("domains.sums.benchmarks.x=5", "not an index into a list of 1"),
        ("domains.sums.benchmarks.\u00b2=5", "not an index into a list of 1"),
        (f"domains.sums.benchmarks.{'9' * 5000}=5", "not an index into a list of 1"),
        ("search..trials=4", "expected names separated by single dots"),
        ("search={trials: 4, trials: 5}", "duplicate key 'trials'"),
        ("search.trials=2026-13-01", "not valid YAML: month must be in 1..12"),
        ("search.trials=0100", "expected a decimal number, found 0100"),
    ],
)
def test_a_bad_override_is_named(sweep_files: Path, override: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(sweep_files / "sweep.yaml", [override])
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b\n", "expected a mapping of keys at the top, found list"),
        ("", "found an empty file"),
        ("a: [1\n", "not valid YAML"),
        ("name: a\nname: b\n", "line 2: duplicate key 'name'"),
        ("search:\n  trials: 1\n  trials: 2\n", "line 3: duplicate key 'trials'"),
        ("? [a]\n: 1\n", "line 1: expected a word as a key, found ['a']"),
        ("name: a\n1: b\n", "line 2: expected a word as a key, found 1"),
        ("a: !!python/name:os.system\n", "not valid YAML"),
        ("a: 2026-13-01\n", "not valid YAML: month must be in 1..12"),
        ("a: !!bool x\n", "not valid YAML"),
        ("a: !!timestamp x\n", "not valid YAML"),
        ("a: " + "[" * 5000, "not valid YAML: nested too deeply"),
        ("a: &a [*a]\n", "unknown key 'a'"),
        (
            "domains: {data: {bechmarks: 1}}",
            "domains.data.bechmarks' (did you mean 'benchmarks'?)",
        ),
        ("a: *b\n", "found undefined alias 'b'"),
        ("a: {<<: 1}\n", "expected a mapping or list of mappings for merging"),
        ("a: {<<: {b: 1}, <<: {c: 1}}\n", "expected <<: [*one, *other]"),
        ("a: &a {b: 1}\nc: {<<: *a, d: 1, d: 2}\n", "line 2: duplicate key 'd'"),
        ("budget: {wall_hours: 1:30}\n", "line 1: expected a decimal number, found 1:30"),
        ("seed: 010\n", "line 1: expected a decimal number, found 010"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_absent_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such configuration file .*mini\.yaml"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="no such configuration file or sweep folder"):
        load_config(tmp_path / "runs" / "absent")
    with pytest.raises(UserError, match=r"no sweep\.yaml in this folder"):
        load_config(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as a text file"):
        load_config(tmp_path / "binary.yaml")


def test_a_file_may_begin_with_a_byte_order_mark(root: Path, tmp_path: Path) -> None:
    shipped = root / "sweeps" / "configs" / "mini.yaml"
    (tmp_path / "mini.yaml").write_bytes(b"\xef\xbb\xbf" + shipped.read_bytes())
    assert load_config(tmp_path / "mini.yaml") == load_config(shipped)


def test_the_nearest_name_or_all_of_them() -> None:
    assert nearest("trails", ["trials", "start"]) == "did you mean 'trials'?"
    assert nearest("zzz", ["b", "a"]) == "expected one of: a, b"


ANCHORS = """
x-benchmark: &benchmark {validation: v.jsonl, test: t.jsonl}
name: small
model: {path: mini:model}
training: {examples: 64, batch: {mini_batch: 8}}
space: {mask_ratio: 0.2, accumulation_interval: 1, learning_rate: 1e-3}
domains:
  sums: &domain
    data: &data {path: a.jsonl, max_length: 64}
    benchmarks: [{<<: *benchmark, name: exact_match}]
  words:
    <<: *domain
    data: {<<: *data, path: b.jsonl}
"""


def test_anchors_and_merge_keys_are_read(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(ANCHORS)
    config = load_config(path)
    sums, words = config.domains["sums"], config.domains["words"]
    assert (sums.data.path, words.data.path) == ("a.jsonl", "b.jsonl")
    assert (sums.data.max_length, words.data.max_length) == (64, 64)
    assert sums.benchmarks == words.benchmarks
    assert words.benchmarks[0].validation == "v.jsonl"


def test_an_override_reaches_one_place_of_an_alias(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(ANCHORS)
    config = load_config(path, ["domains.words.benchmarks.0.limit=5"])
    assert [domain.benchmarks[0].limit for domain in config.domains.values()] == [None, 5]
