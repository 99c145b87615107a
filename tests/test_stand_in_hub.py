"""The stand-in hub serves what the real clients ask for, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stand_in_hub import serving
from tests.sweeps.finetune.tiny import save_world

PINNED = "27d67f1b5f57dc0953326b2601d68371d40ea8da"
CLIENT = """
import json
from datasets import load_dataset
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer

pinned = %r
model = AutoModelForCausalLM.from_pretrained("owner/tiny", revision=pinned)
tokenizer = AutoTokenizer.from_pretrained("owner/tiny", revision=pinned)
rows = {split: list(load_dataset("owner/rows", split=split)) for split in ("train", "test")}
main = load_dataset("owner/nested", "main", split="train", revision=pinned)
errors = []
for name, file in (("owner/tiny", "no.json"), ("owner/none", "config.json")):
    try:
        hf_hub_download(name, file)
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        errors.append(type(error).__name__)
print(json.dumps({
    "parameters": model.num_parameters(),
    "folder": snapshot_download("owner/tiny", revision=pinned),
    "vocabulary": len(tokenizer),
    "rows": rows,
    "nested": main[0],
    "errors": errors,
    "files": HfApi().list_repo_files("owner/tiny"),
}))
"""


@pytest.mark.slow
def test_models_and_datasets_are_loaded_by_name(tmp_path: Path) -> None:
    from datasets import Dataset

    world = save_world(tmp_path / "world")
    owner = tmp_path / "hub" / "models" / "owner"
    owner.mkdir(parents=True)
    (world / "model").rename(owner / "tiny")
    rows = tmp_path / "hub" / "datasets" / "owner" / "rows"
    rows.mkdir(parents=True)
    for split in ("train", "test"):
        (rows / f"{split}.jsonl").write_text(json.dumps({"text": split}) + "\n")
    nested = tmp_path / "hub" / "datasets" / "owner" / "nested" / "main"
    nested.mkdir(parents=True)
    Dataset.from_list([{"choices": {"text": ["a"]}}]).to_parquet(
        nested / "train-00000-of-00001.parquet"
    )
    (nested.parent / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n"
        "    path: main/train-*\n---\n"
    )
    with serving(tmp_path / "hub") as (environment, asked):
        done = subprocess.run(
            [sys.executable, "-c", CLIENT % PINNED],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["parameters"] > 1000 and found["vocabulary"] > 10
    assert found["folder"].endswith(PINNED)
    assert found["rows"] == {"train": [{"text": "train"}], "test": [{"text": "test"}]}
    assert found["nested"] == {"choices": {"text": ["a"]}}
    assert found["errors"] == ["RemoteEntryNotFoundError", "RepositoryNotFoundError"]
    assert "config.json" in found["files"]
    assert any(request.startswith("GET /large/models/owner/tiny/") for request in asked)
