"""Models that follow from others without training: the base model, and One-off Drops."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from gmt_core.delta import one_off_drop
from sweeps.finetune.cache import Cache
from sweeps.finetune.config import FinetuneConfig, ModelConfig, StrictModel
from sweeps.finetune.evaluation import Validation
from sweeps.finetune.group import Group
from sweeps.finetune.model import load_model
from sweeps.finetune.result import RunResult
from sweeps.finetune.surroundings import borrowed_process


class DropConfig(StrictModel):
    """What is dropped of `tuned`, a model folder: `rate` is the share of elements, in [0, 1)."""

    tuned: str
    rule: Literal["trivial", "random", "salient"]
    rate: float
    seed: int = 0


def load_derived(
    model: ModelConfig, drop: DropConfig | None, device: torch.device
) -> tuple[Any, Any]:
    """The base model, or the tuned one with a part of its update dropped; and the tokenizer."""
    base, tokenizer = load_model(model, device)
    if drop is None:
        return base, tokenizer
    tuned, _ = load_model(model.model_copy(update={"path": drop.tuned, "revision": None}), device)
    results = one_off_drop(
        base.state_dict(), tuned.state_dict(), drop.rate, drop.rule, seed=drop.seed
    )
    tuned.load_state_dict(dict(results))
    return tuned, tokenizer


def score_derived(
    config: FinetuneConfig, drop: DropConfig | None, folder: Path, cache: Cache
) -> RunResult:
    """The validation score that a run of `config` would report for this model, untrained.

    Call it on every rank of a group, or alone, as `finetune`. No model is written to `folder`.
    """
    group = Group.current()
    device = group.device()
    folder.mkdir(parents=True, exist_ok=True)
    with borrowed_process(device, config.threads):
        validation = Validation(config.evaluation, group, cache)
        model, tokenizer = load_derived(config.model, drop, device)
        score, metrics = validation.check(model.to(device).eval(), tokenizer, final=True)
    return RunResult("finished", 0, 0, score, metrics)
