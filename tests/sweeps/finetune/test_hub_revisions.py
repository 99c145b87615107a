"""A pinned revision is what is read, or nothing is: offline, from a cache like the hub's."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import datasets
import pytest

from evaluators import benchmarks
from evaluators.errors import DataError
from sweeps.finetune.data_config import DataConfig
from sweeps.finetune.example import RowError
from sweeps.finetune.example_selection import read_examples
from sweeps.finetune.finetune_config import ModelConfig
from sweeps.finetune.model import load_tokenizer
from sweeps.finetune.model_facts import ModelError, read_model_config

NAME = "owner/sums"
COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of huggingface_hub, empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def cached_rows(tmp_path: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of `datasets` with NAME at COMMIT, which was `v1`; `v2` is known, not cached."""
    rows = [{"question": f"{n}+1?", "answer": f"#### {n + 1}"} for n in range(3)]
    source = tmp_path / "rows.json"
    source.write_text(json.dumps(rows))
    made = datasets.load_dataset(
        "json", data_files=str(source), split="train", cache_dir=str(tmp_path / "made")
    )
    made_in = Path(made.cache_files[0]["filename"]).parent
    folder = tmp_path / "datasets" / NAME.replace("/", "___") / "main" / "0.0.0" / COMMIT
    shutil.copytree(made_in, folder)
    (folder / "json-train.arrow").rename(folder / "sums-train.arrow")
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(
        json.dumps({**info, "config_name": "main", "dataset_name": "sums"})
    )
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    refs = hub_cache / f"datasets--{NAME.replace('/', '--')}" / "refs"
    refs.mkdir(parents=True)
    (refs / "v1").write_text(COMMIT)
    (refs / "v2").write_text(OTHER)
    return folder


@pytest.mark.parametrize("revision", [COMMIT, "v1", "main", None])
def test_rows_at_the_cached_revision_are_read(cached_rows: Path, revision: str | None) -> None:
    found, _ = read_examples(DataConfig(path=NAME, format="gsm8k", revision=revision))
    assert len(found) == 3


@pytest.mark.parametrize(
    ("revision", "says"),
    [
        (
            OTHER,
            f"'{OTHER}' was not loaded from the hub and is not in the cache, which holds {COMMIT}",
        ),
        ("v2", "'v2' was not loaded from the hub and is not in the cache"),
        ("v3", f"does not resolve revision 'v3', so .* in the cache; expected {COMMIT}"),
    ],
)
def test_rows_of_another_commit_are_refused(cached_rows: Path, revision: str, says: str) -> None:
    with pytest.raises(RowError, match=f"data.path {NAME}: .*{says}"):
        read_examples(DataConfig(path=NAME, format="gsm8k", revision=revision))
    with pytest.raises(DataError, match=f"^hub:{NAME}@{revision}: .*{says}"):
        benchmarks.build("gsm8k").load(Path(f"hub:{NAME}@{revision}"), "validation")


def test_of_two_cached_commits_the_pinned_one_is_read(cached_rows: Path) -> None:
    later = shutil.copytree(cached_rows, cached_rows.with_name("c" * 40))
    empty = datasets.Dataset.from_list([{"question": "later?", "answer": "#### 0"}])
    empty.save_to_disk(str(later / "saved"))
    (later / "saved" / "data-00000-of-00001.arrow").replace(later / "sums-train.arrow")
    shutil.rmtree(later / "saved")
    os.utime(later, (4e9, 4e9))  # `datasets` takes the latest
    latest, _ = read_examples(DataConfig(path=NAME, format="gsm8k", revision="c" * 40))
    assert [example.split_text for example in latest] == ["later?"]
    for revision in (COMMIT, "v1"):
        pinned, _ = read_examples(DataConfig(path=NAME, format="gsm8k", revision=revision))
        assert [example.split_text for example in pinned] == ["0+1?", "1+1?", "2+1?"]


def test_a_model_at_another_commit_is_refused(world: Path, hub_cache: Path) -> None:
    folder = hub_cache / f"models--{NAME.replace('/', '--')}"
    shutil.copytree(world / "model", folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    for revision in (COMMIT, "main", None):
        model = ModelConfig(path=NAME, revision=revision)
        assert read_model_config(model)["model_type"] == "llama"
        assert load_tokenizer(model).eos_token == "</s>"
    for revision in (OTHER, "v2"):
        model = ModelConfig(path=NAME, revision=revision)
        with pytest.raises(ModelError, match=f"no copy of the model at revision '{revision}'"):
            read_model_config(model)
        with pytest.raises(ModelError, match="cannot be loaded"):
            load_tokenizer(model)
