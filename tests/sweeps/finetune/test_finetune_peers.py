"""What a run computes, against Hugging Face's Trainer and against plain arithmetic."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    TrainerCallback,
    TrainingArguments,
)
from transformers import Trainer as PeerTrainer

from sweeps.finetune.data import TrainingData, load_training_data
from sweeps.finetune.group import Group
from sweeps.finetune.loop import finetune
from sweeps.finetune.model import load_model
from sweeps.finetune.order import DataOrder
from sweeps.finetune.schedule import learning_rate
from sweeps.finetune.trainer import Trainer
from tests.sweeps.finetune.tiny import MemoryReporter, config, largest_difference, parameters

CPU = torch.device("cpu")
STEPS, BATCH = 12, 8


def peer_rows(data: TrainingData, seed: int) -> list[dict[str, list[int]]]:
    """The examples in the order that a run sees them, with labels on the response only."""
    order = DataOrder(len(data), seed)
    places = [place for update in range(STEPS) for place in order.batch(update, BATCH)]
    return [
        {
            "input_ids": list(data.tokens[place]),
            "labels": [-100] * data.first[place] + list(data.tokens[place][data.first[place] :]),
        }
        for place in places
    ]


def padded(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    length = max(len(row["input_ids"]) for row in rows)

    def column(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([row[name] + [fill] * (length - len(row[name])) for row in rows])

    ids = column("input_ids", 0)
    mask = torch.tensor(
        [[1] * len(r["input_ids"]) + [0] * (length - len(r["input_ids"])) for r in rows]
    )
    return {"input_ids": ids, "labels": column("labels", -100), "attention_mask": mask}


class InOrder(PeerTrainer):
    """The rows as they come."""

    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


class Losses(TrainerCallback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.values.append(logs["loss"])


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
@pytest.mark.parametrize("accumulation", [1, 2])
def test_sft_has_the_loss_curve_of_transformers_trainer(
    world: Path, tmp_path: Path, accumulation: int
) -> None:
    settings = config(
        world,
        method={"name": "sft"},
        batch={"hold": "global_batch", "global_batch": BATCH},
        accumulation_interval=accumulation,
        examples=STEPS * BATCH,
        warmup_ratio=0.25,
    )
    reporter = MemoryReporter()
    result = finetune(settings, tmp_path / "ours", reporter)
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    model = AutoModelForCausalLM.from_pretrained(world / "model", dtype=torch.float32)
    losses = Losses()
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "peer"),
        per_device_train_batch_size=BATCH // accumulation,
        gradient_accumulation_steps=accumulation,
        max_steps=STEPS,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(0.25 * STEPS),
        optim="adamw_torch_fused",
        adam_beta2=0.999,
        weight_decay=0.0,
        max_grad_norm=1.0,
        logging_steps=1,
        logging_first_step=True,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    rows = peer_rows(load_training_data(settings.data, tokenizer), settings.seed)
    peer = InOrder(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=padded,
        callbacks=[losses],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the peer and of what it is built on
        peer.train()
    assert len(losses.values) == STEPS
    assert reporter.losses() == pytest.approx(losses.values, abs=1e-5)
    theirs = {name: value.detach() for name, value in model.named_parameters()}
    assert largest_difference(parameters(result.model_folder), theirs) < 1e-4


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
            batch={"hold": "global_batch", "global_batch": 8},
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
    model, tokenizer = load_model(settings.model, CPU)
    rows = peer_rows(load_training_data(settings.data, tokenizer), settings.seed)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    losses = []
    for update in range(STEPS):
        batch = rows[update * BATCH : (update + 1) * BATCH]
        targets = sum(label != -100 for row in batch for label in row["labels"][1:])
        total = 0.0
        for row in batch:
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
            labels = torch.tensor(row["labels"][1:])
            loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / targets
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for parameter in model.parameters():
            size = parameter.grad.abs()
            kept = size.numel() - size.numel() * 4 // 10
            threshold = size.flatten().sort(descending=True).values[kept - 1]
            parameter.grad[size < threshold] = 0
        optimizer.param_groups[0]["lr"] = learning_rate(
            update, steps=STEPS, peak=settings.learning_rate, warmup_ratio=0.25
        )
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    assert reporter.losses() == pytest.approx(losses, abs=1e-10)
    theirs = {name: value.detach().float() for name, value in model.named_parameters()}
    assert largest_difference(parameters(result.model_folder), theirs) < 1e-7
