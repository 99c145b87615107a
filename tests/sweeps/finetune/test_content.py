"""A change in what a run reads is seen, wherever it lies and however large it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from sweeps.finetune import tokenized_data
from sweeps.finetune.data_config import DataConfig
from sweeps.finetune.finetune_config import BenchmarkConfig
from sweeps.finetune.process_state import signature
from sweeps.finetune.run_identity import content
from tests.sweeps.finetune.tiny import save_rows

ROW = {"prompt": "1+1=", "response": "2"}


def large_file(path: Path, size_mib: int) -> Path:
    """A file of zeros that takes no room."""
    with path.open("wb") as file:
        file.truncate(size_mib << 20)
    return path


def test_one_byte_in_the_middle_of_large_data_is_seen(tmp_path: Path) -> None:
    large = large_file(tmp_path / "rows.jsonl", 80)
    before = content(str(large))
    with large.open("r+b") as file:
        file.seek(31 << 20)
        file.write(b"1")
    assert content(str(large)) != before


def test_a_changed_weight_of_a_large_file_is_found_by_its_size(tmp_path: Path) -> None:
    large = large_file(tmp_path / "model.safetensors", 65)
    before = content(str(tmp_path))
    with large.open("ab") as file:
        file.write(b"1")
    assert content(str(tmp_path)) != before
    assert content("organisation/model") == "organisation/model"


def test_a_path_is_read_as_the_rows_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = save_rows(tmp_path / "rows.jsonl", [ROW])
    assert content("~/rows.jsonl") == content(str(path)) == content(f"{path}, ")
    assert content("") == ""


def test_a_file_below_a_folder_is_seen(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    before = signature(str(tmp_path))
    save_rows(tmp_path / "dev" / "anatomy_dev.csv", [])
    assert signature(str(tmp_path)) != before


def test_kept_tokens_depend_on_all_that_decontaminates(
    tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenized_data, "_CACHED_BYTES", 0)
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    config = DataConfig(path=str(save_rows(tmp_path / "rows.jsonl", [ROW])), decontaminate=3)
    (tmp_path / "mmlu" / "dev").mkdir(parents=True)
    items = save_rows(tmp_path / "mmlu" / "dev" / "anatomy_dev.csv", [])

    def key(config: DataConfig = config, **changes: Any) -> tuple[object, ...] | None:
        places = {"validation": str(tmp_path / "mmlu"), "test": "hub:owner/name@v1"}
        return tokenized_data._cache_key(
            config, tokenizer, [BenchmarkConfig(**{"name": "mmlu", **places, **changes})]
        )

    keys = [key(), key(name="text"), key(preset="full"), key(test="hub:owner/name@v2")]
    assert key() == keys[0]
    items.write_text("changed\n")
    keys.append(key())
    assert len(set(keys)) == len(keys)
    untouched = config.model_copy(update={"decontaminate": None})
    assert key(untouched) == key(untouched, preset="full")
