"""Tokens that are added to a model: embedded, trained, saved, and loaded again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from sweeps.finetune.finetune_config import ModelConfig
from sweeps.finetune.loop import finetune
from sweeps.finetune.model import load_model
from sweeps.finetune.model_facts import ModelError
from tests.sweeps.finetune.tiny import MemoryReporter, assert_equal, config, parameters, save_rows

CPU = torch.device("cpu")
ADDED = ("<call>", "<end>")


def load(folder: Path, *added: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor], int]:
    model, tokenizer = load_model(ModelConfig(path=str(folder), added_tokens=added), CPU)
    return tokenizer, {n: p.detach() for n, p in model.named_parameters()}, len(tokenizer)


def test_added_tokens_are_embedded_near_the_mean(world: Path) -> None:
    _, before, known = load(world / "model")
    random_state = torch.get_rng_state()
    tokenizer, after, size = load(world / "model", *ADDED)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert size == known + 2
    assert tokenizer.tokenize("1<call>2<end>") == ["1", "<call>", "2", "<end>"]
    old, new = before["model.embed_tokens.weight"], after["model.embed_tokens.weight"]
    assert torch.equal(new[:known], old)
    torch.testing.assert_close(new[known:], old.mean(0).expand(2, -1), atol=1e-4, rtol=0)
    assert_equal(after, load(world / "model", *ADDED)[1])


def test_a_run_saves_them_with_model_and_tokenizer(world: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"<call>{n}+1=", "response": f"{n + 1}<end>"} for n in range(8)]
    path = save_rows(tmp_path / "rows.jsonl", rows)
    model = {"path": str(world / "model"), "added_tokens": ADDED}
    data = {"path": str(path), "max_length": 32}
    run = config(world, model=model, data=data, examples=16)
    result = finetune(run, tmp_path / "run", MemoryReporter())
    saved = tmp_path / "run" / "model"
    _, plain, size = load(saved)
    assert size == len(AutoTokenizer.from_pretrained(world / "model")) + 2
    assert_equal(plain, parameters(result.model_folder))
    assert_equal(plain, load(saved, *ADDED)[1])  # they are not added again
    embeddings = plain["model.embed_tokens.weight"]
    assert not torch.equal(
        embeddings[-1], load(world / "model", *ADDED)[1]["model.embed_tokens.weight"][-1]
    )


def test_a_tokenizer_with_other_tokens_is_refused(world: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(world / "model", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(ADDED))
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="no row for '<end>'"):
        load(folder, "<call>")
    assert load(folder, *ADDED)[2] == len(tokenizer)
