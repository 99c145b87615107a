"""One-off Drop: a result derived from a finished SFT run, which trains nothing.

Its delta from the base model is cut down (arXiv 2406.15330, Figure 3), and what is left is saved
and scored as any run's model is.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch

from gmt_core.delta import one_off_drop
from sweeps.finetune.cache import Cache
from sweeps.finetune.config import DropConfig, FinetuneConfig
from sweeps.finetune.evaluation import Validation
from sweeps.finetune.group import Group
from sweeps.finetune.model import ModelError, load_model, save_model
from sweeps.finetune.result import RunResult


def derive(config: FinetuneConfig, folder: Path, group: Group, cache: Cache | None) -> RunResult:
    """Drop, save and score; called on every rank. `step` is 0: there are no updates."""
    started = time.perf_counter()
    device = group.device()
    model, tokenizer = dropped_model(config, device)
    validation = Validation(config.evaluation, group, cache or Cache())
    score, metrics = validation.check(model.to(device).eval(), tokenizer, final=True)
    metrics["cost/eval_seconds"] = time.perf_counter() - started
    if not math.isfinite(score):
        reason = f"the validation score is {score:g}"
        return RunResult("diverged", 0, 0, None, metrics, reason=reason)
    target = None
    if config.keep == "model":
        target = str(folder / "model")
        if group.leads:
            save_model(model, tokenizer, Path(target), model.state_dict())
    return RunResult("finished", 0, 0, score, metrics, target)


def check_parent(drop: DropConfig) -> Path:
    """The model folder of the parent; ModelError unless `drop.parent` is a finished run."""
    folder = Path(drop.parent).expanduser() / "model"
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"method.drop.parent: expected the folder of a finished SFT run that kept its model, "
            f"found no model/config.json in {drop.parent}"
        )
    return folder


@torch.no_grad()
def dropped_model(config: FinetuneConfig, device: torch.device) -> tuple[Any, Any]:
    """The parent's model with its delta cut down, and its tokenizer."""
    drop = config.method.drop
    assert drop is not None  # the config's validator saw to it
    parent = config.model.model_copy(update={"path": str(check_parent(drop)), "revision": None})
    model, tokenizer = load_model(parent, device)
    base, _ = load_model(config.model, device)
    tuned = dict(model.named_parameters())
    try:
        entries = one_off_drop(
            dict(base.named_parameters()),
            tuned,
            drop.ratio,
            drop.strategy,
            seed=config.seed,
            rescale=drop.rescale,
        )
        for name, value in entries:
            tuned[name].copy_(value)
    except ValueError as error:
        raise ModelError(
            f"method.drop.parent {drop.parent}: expected a fine-tuned {config.model.path}: {error}"
        ) from error
    return model, tokenizer
