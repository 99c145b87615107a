"""A model with a loss, weight or score that is not finite has diverged: no score, no model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from sweeps.finetune.derived_models import score_derived
from sweeps.finetune.divergence import DivergedError, check_scores, check_weights
from sweeps.finetune.loop import RunResult, finetune
from sweeps.finetune.method_options import DropConfig
from sweeps.finetune.process_group import Group
from sweeps.finetune.process_state import Cache
from sweeps.finetune.trainer import Trainer
from tests.sweeps.finetune.processes import run_ranks
from tests.sweeps.finetune.tiny import MemoryReporter, config, save_model

TWO_UPDATES = {"examples": 16, "clip_norm": None}


def accuracy(world: Path) -> dict[str, Any]:
    """An evaluation by answers alone, where a model that says nothing scores 0."""
    items = str(world / "validation.jsonl")
    return {
        "checks": 1,
        "benchmarks": [{"name": "exact_match", "validation": items, "test": "test.jsonl"}],
    }


def diverged(world: Path, folder: Path, **changes: Any) -> RunResult:
    reporter = MemoryReporter()
    result = finetune(config(world, **changes), folder, reporter)
    assert (result.state, result.score, result.model_folder) == ("diverged", None, None)
    assert not any(check.done for check in reporter.checks)
    assert [path.name for path in folder.iterdir()] == ["result.json"]
    return result


def test_the_last_update_is_looked_at_too(world: Path, tmp_path: Path) -> None:
    evaluation = accuracy(world)
    result = diverged(world, tmp_path, learning_rate=1e38, evaluation=evaluation, **TWO_UPDATES)
    assert result.reason.startswith("update 2: ")


def test_finite_weights_whose_loss_is_not(world: Path, tmp_path: Path) -> None:
    step = Trainer._step

    def exploded(self: Trainer, update: int, norm: torch.Tensor) -> float:
        rate = step(self, update, norm)
        with torch.no_grad():
            for norm_weight in (each for each in self._parameters if each.ndim == 1):
                norm_weight.fill_(1e38 if update == 1 else 1.0)
        return rate

    with patch.object(Trainer, "_step", exploded):
        result = diverged(world, tmp_path, evaluation=accuracy(world), **TWO_UPDATES)
    assert result.reason.startswith("update 2: the loss is ")


def poison(trainer: Trainer, value: float) -> None:
    """Make one element of the first parameter that this rank holds a part of `value`."""
    local: Any = trainer._parameters[0]
    if hasattr(local, "to_local"):
        local = local.to_local()
    with torch.no_grad():
        local.view(-1)[0] = value  # of the padding's embedding, which no loss depends on


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_weight_is_enough(world: Path, tmp_path: Path, value: float) -> None:
    step = Trainer._step

    def poisoned(self: Trainer, update: int, norm: torch.Tensor) -> float:
        rate = step(self, update, norm)
        if update == 3:
            poison(self, value)
        return rate

    with patch.object(Trainer, "_step", poisoned):
        result = diverged(world, tmp_path)
    assert result.reason == "update 4: some weights are NaN or infinite"
    assert result.step == 4


def train_poisoned(world: Path, folder: Path, parallel: str) -> None:
    """On one rank: a run of which the last rank's part of the weights breaks."""
    step = Trainer._step

    def poisoned(self: Trainer, update: int, norm: torch.Tensor) -> float:
        rate = step(self, update, norm)
        if dist.get_rank() == dist.get_world_size() - 1:
            poison(self, math.nan)
        return rate

    batch = {"fixed": "global_batch", "global_batch": 8}
    with patch.object(Trainer, "_step", poisoned):
        run = config(world, parallel=parallel, batch=batch)
        result = finetune(run, folder / "run", MemoryReporter())
    (folder / f"{dist.get_rank()}.txt").write_text(f"{result.state}: {result.reason}")


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_every_rank_hears_of_it(world: Path, tmp_path: Path, parallel: str) -> None:
    run_ranks(train_poisoned, 2, tmp_path, world, tmp_path, parallel)
    said = {file.read_text() for file in tmp_path.glob("*.txt")}
    assert len(said) == 1
    assert said.pop().startswith("diverged: ")
    assert not (tmp_path / "run" / "model").exists()


def test_a_model_that_is_only_scored_is_looked_at_too(world: Path, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    folder = save_model(tmp_path / "model")
    model = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] = math.nan
    model.save_pretrained(folder)
    run = config(world, model={"path": str(folder)}, evaluation=accuracy(world))
    drop = DropConfig(tuned=str(folder), rate=0.0)
    for what in (None, drop):
        result = score_derived(run, what, tmp_path / "scored", Cache(), keep=False)
        assert (result.state, result.score) == ("diverged", None)


def test_scores_and_weights_by_themselves() -> None:
    check_scores(0.5, {"eval/a/bits_per_byte": 1.0})
    with pytest.raises(DivergedError, match=r"^eval/a/bits_per_byte is nan"):
        check_scores(0.0, {"eval/a/bits_per_byte": math.nan})
    with pytest.raises(DivergedError, match=r"^score is -inf"):
        check_scores(-math.inf, {})
    model = torch.nn.Linear(3, 2).to(torch.bfloat16)
    check_weights(model, Group())
    with torch.no_grad():
        model.bias[1] = -math.inf
    with pytest.raises(DivergedError, match="NaN or infinite"):
        check_weights(model, Group())
