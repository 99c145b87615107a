"""The first lines of docs/gmt_core.md, run as they stand."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import lightning.pytorch
import torch
import transformers
from torch import nn

from tests.gmt_core.integrations.tiny import model, token_rows

PAGE = Path(__file__).resolve().parents[3] / "docs" / "gmt_core.md"
PLAIN, HUGGING_FACE, LIGHTNING = re.findall(
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
