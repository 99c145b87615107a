"""Models derived from others without training: the base model, and One-off Drops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gmt_core.delta import one_off_drop
from sweeps.finetune.divergence import DivergedError, check_weights
from sweeps.finetune.finetune_config import FinetuneConfig, ModelConfig
from sweeps.finetune.method_options import DropConfig
from sweeps.finetune.model import computing_dtype, load_model, save_model
from sweeps.finetune.model_facts import ModelError
from sweeps.finetune.process_group import Group
from sweeps.finetune.process_state import Cache, preserve_global_state
from sweeps.finetune.reporter import RunResult
from sweeps.finetune.validation import Validation


def load_derived(
    model: ModelConfig, drop: DropConfig | None, device: torch.device
) -> tuple[Any, Any]:
    """The model and tokenizer: the base model, or `drop.tuned` with part of its update dropped."""
    if drop is not None and not (Path(drop.tuned).expanduser() / "config.json").is_file():
        raise ModelError(
            f"drop: expected the model folder of a finished SFT run, found no config.json in "
            f"{drop.tuned}"
        )
    base, tokenizer = load_model(model, device)
    if drop is None:
        return base, tokenizer
    tuned, _ = load_model(model.model_copy(update={"path": drop.tuned, "revision": None}), device)
    results = one_off_drop(
        base.state_dict(),
        tuned.state_dict(),
        drop.rate,
        drop.rule,
        seed=drop.seed,
        rescale=drop.rescale,
    )
    tuned.load_state_dict(dict(results))
    return tuned, tokenizer


def score_derived(
    config: FinetuneConfig, drop: DropConfig | None, folder: Path, cache: Cache, *, keep: bool
) -> RunResult:
    """The validation score of a model without training, as a run of `config` would report it.

    Call it on every rank of a group, or alone, like `finetune`. `step` is 0, because there are no
    updates. `keep`: save the model in `folder`.
    """
    group = Group.current()
    device, target = group.device(), folder / "model"
    folder.mkdir(parents=True, exist_ok=True)
    with preserve_global_state(device, config.threads):
        computes_in = computing_dtype(config.model.dtype, device)
        validation = Validation(config.evaluation, group, cache, config.model.add_bos, computes_in)
        model, tokenizer = load_derived(config.model, drop, device)
        try:
            check_weights(model.to(device), group)
            score, metrics = validation.check(model.eval(), tokenizer, final=True)
        except DivergedError as error:
            return RunResult("diverged", 0, 0, None, reason=str(error))
        if keep and group.leads:
            save_model(model, tokenizer, target, model.state_dict())
    return RunResult("finished", 0, 0, score, metrics, str(target) if keep else None)
