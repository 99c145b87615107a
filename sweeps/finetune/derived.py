"""Models that follow from others without training: the base model, and drops of an SFT update.

One-off Drop (arXiv 2406.15330, section 2.3 and Figure 3): of the update tuned - base, a share of
the elements is put back to the base model's, per tensor and without rescaling.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gmt_core.methods import GradientMask, RandomMask
from sweeps.finetune.cache import Cache
from sweeps.finetune.config import FinetuneConfig, ModelConfig, StrictModel
from sweeps.finetune.evaluation import Validation
from sweeps.finetune.group import Group
from sweeps.finetune.model import load_model
from sweeps.finetune.result import RunResult
from sweeps.finetune.surroundings import borrowed_process

DropRule = Literal["trivial", "random", "salient"]


class DropConfig(StrictModel):
    """What is dropped of `tuned`, a model folder: `rate` is the share of elements, in [0, 1)."""

    tuned: str
    rule: DropRule
    rate: float
    seed: int = 0


def load_derived(
    model: ModelConfig, drop: DropConfig | None, device: torch.device
) -> tuple[Any, Any]:
    """The base model, or the tuned one with a part of its update dropped; and the tokenizer."""
    base, tokenizer = load_model(model, device)
    if drop is None:
        return base, tokenizer
    tuned, _ = load_model(model.model_copy(update={"path": drop.tuned}), device)
    before = dict(base.named_parameters())
    with torch.no_grad():
        names = [name for name, _ in tuned.named_parameters()]
        deltas = [p - before[name] for name, p in tuned.named_parameters()]
        for name, delta in zip(names, dropped(deltas, drop), strict=True):
            before[name].add_(delta)
    return base, tokenizer


def dropped(deltas: list[Tensor], drop: DropConfig) -> list[Tensor]:
    """The deltas with a share of each tensor's elements set to zero.

    `trivial`: those of smallest magnitude; `salient`: of largest; `random`: by seed.
    """
    kept = [delta.clone() for delta in deltas]
    if drop.rule == "random":
        RandomMask(drop.rate, drop.seed).mask_(kept, 0)
    elif drop.rule == "trivial":
        GradientMask(drop.rate).mask_(kept, 0)
    elif drop.rate > 0:
        GradientMask(1.0 - drop.rate).mask_(kept, 0)  # what is dropped: the largest elements
        kept = [delta - largest for delta, largest in zip(deltas, kept, strict=True)]
    return kept


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
