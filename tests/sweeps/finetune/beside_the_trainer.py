"""The same run by us and by transformers' Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer

from benchmarks.finetune_peers import by_the_trainer
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.loop import finetune
from sweeps.finetune.tokenized_data import load_training_data
from tests.sweeps.finetune.tiny import MemoryReporter, parameters

STEPS, BATCH = 12, 8
SETTINGS: dict[str, Any] = {
    "batch": {"fixed": "global_batch", "global_batch": BATCH},
    "examples": STEPS * BATCH,
    "warmup_ratio": 0.25,
}
"""What both can do."""


def train_both(
    settings: FinetuneConfig, folder: Path
) -> tuple[list[float], dict[str, Tensor], list[float], Any]:
    """Our losses and trained parameters, the Trainer's losses and its model."""
    reporter = MemoryReporter()
    result = finetune(settings, folder, reporter)
    tokenizer = AutoTokenizer.from_pretrained(settings.model.path)
    losses, model = by_the_trainer(settings, load_training_data(settings.data, tokenizer))
    return reporter.losses(), parameters(result.model_folder), losses, model
