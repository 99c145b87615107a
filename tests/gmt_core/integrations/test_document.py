"""The code of docs/gmt_core.md, run as it stands."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import lightning.pytorch
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import gmt_core
from tests.gmt_core.integrations.tiny import model, token_rows

PAGE = Path(__file__).resolve().parents[3] / "docs" / "gmt_core.md"
PLAIN, HUGGING_FACE, LIGHTNING, DELTAS = re.findall(
    r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S
)


def test_plain_pytorch() -> None:
    weight = nn.Parameter(torch.ones(10))
    names = {"optimizer": torch.optim.SGD([weight], lr=1.0)}
    exec(PLAIN, names)
    weight.grad = torch.arange(1.0, 11.0)
    names["optimizer"].step()
    assert (weight == 1).sum() == 2


def test_hugging_face(tmp_path: Path) -> None:
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=1, use_cpu=True, save_strategy="no", logging_steps=1
    )
    trainer = transformers.Trainer(model(), arguments, train_dataset=token_rows(8))
    exec(HUGGING_FACE, {"trainer": trainer})
    trainer.train()
    assert 0.78 < trainer.state.log_history[0]["gmt/kept_fraction"] < 0.85


def test_lightning() -> None:
    names = {"Trainer": partial(lightning.pytorch.Trainer, logger=False, accelerator="cpu")}
    exec(LIGHTNING, names)
    kinds = [type(callback).__name__ for callback in names["trainer"].callbacks]
    assert "GradientMaskCallback" in kinds


def test_deltas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = {"base": {"weight": torch.zeros(1, 8)}, "tuned": {"weight": torch.ones(1, 8)}}
    for name, tensors in weights.items():
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text("{}")
    network = nn.Linear(8, 1, bias=False)
    exec(DELTAS, {"model": network})
    assert torch.equal(network.weight, torch.ones(1, 8))
    written = load_file(tmp_path / "math" / "model.safetensors")
    assert torch.equal(written["weight"], torch.ones(1, 8))


def test_a_method_of_your_own() -> None:
    page = PAGE.with_name("how_to.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    weight = nn.Parameter(torch.tensor([1.0, -1.0]))
    names = {"optimizer": torch.optim.SGD([weight], lr=0.5)}
    exec(block, names)
    weight.grad = torch.ones(2)
    names["optimizer"].step()
    assert weight.tolist() == [0.5, -1.0]


def test_the_documented_lines_of_other_papers_hold_one_mask() -> None:
    lines = re.findall(r"\]\(https://arxiv\S+\)\) \| `(.+)` \|$", PAGE.read_text("utf-8"), re.M)
    assert len(lines) == 5
    assert all(eval(line, vars(gmt_core)).hold == "training" for line in lines)
