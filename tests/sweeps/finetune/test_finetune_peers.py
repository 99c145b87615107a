"""What a run computes, against Hugging Face's Trainer and against plain arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from benchmarks.finetune_peers import by_sorting
from sweeps.finetune.loop import finetune
from sweeps.finetune.model import load_model
from sweeps.finetune.order import DataOrder
from sweeps.finetune.process_group import Group
from sweeps.finetune.tokenized_data import load_training_data
from sweeps.finetune.trainer import Trainer
from tests.sweeps.finetune.beside_the_trainer import BATCH, SETTINGS, STEPS, train_both
from tests.sweeps.finetune.tiny import MemoryReporter, config, largest_difference, parameters

CPU = torch.device("cpu")


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
@pytest.mark.parametrize("accumulation", [1, 2])
def test_sft_has_the_loss_curve_of_transformers_trainer(
    world: Path, tmp_path: Path, accumulation: int
) -> None:
    settings = config(
        world, method={"name": "sft"}, accumulation_interval=accumulation, **SETTINGS
    )
    ours, weights, losses, model = train_both(settings, tmp_path / "ours")
    assert len(losses) == STEPS
    assert ours == pytest.approx(losses, abs=1e-5)
    theirs = {name: value.detach() for name, value in model.named_parameters()}
    assert largest_difference(weights, theirs) < 1e-4


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
@pytest.mark.parametrize("packing", [False, True])
def test_the_accumulated_gradient_does_not_depend_on_the_interval(
    world: Path, dtype: str, tolerance: float, packing: bool
) -> None:
    gradients = []
    for interval in (1, 2, 4, 8):
        settings = config(
            world,
            model={"path": str(world / "model"), "dtype": dtype},
            data={"path": str(world / "train.jsonl"), "max_length": 32, "packing": packing},
            batch={"fixed": "global_batch", "global_batch": 8},
            accumulation_interval=interval,
        )
        model, tokenizer = load_model(settings.model, CPU)
        data = load_training_data(settings.data, tokenizer)
        trainer = Trainer(settings, model, data, Group(), CPU)
        batch = DataOrder(len(data), 0).batch(0, 8)
        assert len({data.lengths[index] for index in batch}) > 1
        trainer._accumulate(batch)
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    for other in gradients[1:]:
        assert largest_difference(gradients[0], other) < tolerance


def test_gmt_has_the_loss_curve_of_a_script_that_sorts(world: Path, tmp_path: Path) -> None:
    # In float32 the rounding of another order of summation can flip an element of the mask.
    settings = config(
        world,
        model={"path": str(world / "model"), "dtype": "float64"},
        examples=STEPS * BATCH,
        clip_norm=0.5,
        warmup_ratio=0.25,
    )
    reporter = MemoryReporter()
    result = finetune(settings, tmp_path / "ours", reporter)
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    losses, model = by_sorting(settings, load_training_data(settings.data, tokenizer))
    assert reporter.losses() == pytest.approx(losses, abs=1e-10)
    theirs = {name: value.detach().float() for name, value in model.named_parameters()}
    assert largest_difference(parameters(result.model_folder), theirs) < 1e-7
