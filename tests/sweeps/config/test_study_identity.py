"""Keys of trials and definitions of studies: the same for the same thing, else different."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.config.load import parse_config
from sweeps.config.study_identity import differences, git_commit, study_definition, trial_key
from sweeps.config.sweep_config import resolve_paths
from sweeps.finetune.run_identity import digest

Tree = dict[str, Any]
KEYS = st.text(max_size=3)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=3)
TREES = st.dictionaries(KEYS, LEAVES | st.dictionaries(KEYS, LEAVES, max_size=3), max_size=3)
# No deadline: the machine may be busy with other tests.
few = settings(max_examples=50, deadline=None)
POINT = {"mask_ratio": 0.2, "accumulation_interval": 2, "learning_rate": 1e-3}


def reordered(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {key: reordered(tree[key]) for key in reversed(tree)}


@few
@given(TREES)
def test_the_order_of_keys_does_not_count(tree: Tree) -> None:
    assert digest(reordered(tree)) == digest(tree)


@few
@given(TREES, KEYS, LEAVES)
def test_another_leaf_is_another_digest(tree: Tree, key: str, value: Any) -> None:
    changed = {**tree, key: value}
    same = key in tree and repr(tree[key]) == repr(value)
    assert (digest(changed) == digest(tree)) == same


def test_a_digest_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest({"a": float("nan")})


@pytest.mark.parametrize(
    "change",
    [
        {"mask_ratio": 0.3},
        {"accumulation_interval": 1},
        {"learning_rate": 1.0000001e-3},
        {"seed": 1},
    ],
)
def test_another_point_is_another_key(tree: Tree, change: Tree) -> None:
    config = parse_config(tree)
    key = trial_key(3, config.trial("sums", POINT), 1)
    assert key.startswith("003-")
    assert key == trial_key(3, config.trial("sums", dict(reversed(POINT.items()))), 1)
    assert key != trial_key(3, config.trial("sums", {**POINT, **change}), 1)


def test_number_and_workers_belong_to_the_key(tree: Tree) -> None:
    run = parse_config(tree).trial("sums", POINT)
    assert len({trial_key(3, run, 1), trial_key(4, run, 1), trial_key(3, run, 2)}) == 3


def changed(tree: Tree, place: str, value: Any) -> Tree:
    result = copy.deepcopy(tree)
    here = result
    *parents, last = place.split(".")
    for part in parents:
        here = here.setdefault(part, {})
    here[last] = value
    return result


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("seed", 1),
        ("model.path", "elsewhere"),
        ("training.examples", 128),
        ("training.clip_norm", None),
        ("evaluation.checks", 5),
        ("search.scheduler.name", "asha"),
        ("space.mask_ratio", [0.0, 0.2]),
        ("domains.sums.data.max_length", 64),
        ("resources.workers", 2),
    ],
)
def test_what_makes_trials_incomparable_makes_another_study(
    tree: Tree, place: str, value: Any
) -> None:
    before = study_definition(parse_config(tree), "sums")
    now = study_definition(parse_config(changed(tree, place, value)), "sums")
    named = differences(before, now)
    assert named
    assert any(place.rsplit(".", 1)[-1] in line or place in line for line in named)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("search.trials", 30),
        ("search.sampler", "random"),
        ("resources.concurrency", 4),
        ("training.threads", 2),
        ("tracking.uri", "http://elsewhere:5000"),
        ("storage", "elsewhere"),
    ],
)
def test_more_trials_or_other_resources_leave_it_the_same_study(
    tree: Tree, place: str, value: Any
) -> None:
    before = study_definition(parse_config(tree), "sums")
    assert study_definition(parse_config(changed(tree, place, value)), "sums") == before


def test_the_commit_of_this_checkout_is_one_word() -> None:
    assert len(git_commit().split()) == 1


def test_a_run_is_known_by_what_it_reads_and_not_by_where_that_lies(
    tree: Tree, sweep_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    moved = tmp_path_factory.mktemp("moved") / "elsewhere"
    shutil.copytree(sweep_files, moved)

    def key(root: Path) -> str:
        config = resolve_paths(parse_config({**tree, "data_root": str(root)}))
        return trial_key(0, config.trial("sums", POINT), 1)

    before = key(sweep_files)
    assert key(moved) == before
    (moved / "test.jsonl").write_text("not read by a trial\n")
    assert key(moved) == before
    rows = moved / "train.jsonl"
    rows.write_text(rows.read_text() + '{"prompt": "a", "response": "b"}\n')
    assert key(moved) != before


@pytest.mark.parametrize(
    "place", ["training.threads", "training.checkpoint_updates", "training.statistics_every"]
)
def test_what_decides_nothing_but_rounding_is_no_part_of_the_key(tree: Tree, place: str) -> None:
    keys = {
        trial_key(0, parse_config(changed(tree, place, value)).trial("sums", POINT), 1)
        for value in (1, 2)
    }
    assert len(keys) == 1


def test_a_setting_at_its_default_is_the_setting_left_out(tree: Tree) -> None:
    spelled_out = changed(tree, "training.weight_decay", 0.0)
    assert study_definition(parse_config(spelled_out), "sums") == study_definition(
        parse_config(tree), "sums"
    )


def test_the_code_belongs_to_a_study_by_choice(tree: Tree) -> None:
    assert "code" not in study_definition(parse_config(tree), "sums")
    pinned = study_definition(parse_config({**tree, "pin_code": True}), "sums")
    assert pinned["code"] == git_commit()
