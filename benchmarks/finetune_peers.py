"""What a run is held against: transformers' Trainer, and a loop of plain PyTorch that sorts."""

from __future__ import annotations

import math
import tempfile
import warnings
from fractions import Fraction
from typing import Any

import peft
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.model import load_model
from sweeps.finetune.optimizers import learning_rate
from sweeps.finetune.order import DataOrder, mixed_seed
from sweeps.finetune.tokenized_data import TrainingData

Row = dict[str, list[int]]


def updates_of(settings: FinetuneConfig, data: TrainingData) -> list[list[Row]]:
    """The examples of each update of a run of one worker, labelled on the response."""
    order, batch = DataOrder(len(data), settings.seed), settings.effective_batch(1)
    places = [order.batch(update, batch) for update in range(settings.steps(1))]
    return [[labelled(data, place) for place in each] for each in places]


def labelled(data: TrainingData, place: int) -> Row:
    """The tokens of an example, and those of them that are targets, else -100."""
    tokens = list(data.tokens[place])
    labels = [-100] * len(tokens)
    for start, end in data.spans[place]:
        labels[start:end] = tokens[start:end]
    return {"input_ids": tokens, "labels": labels}


def _padded(rows: list[Row]) -> dict[str, Tensor]:
    length = max(len(row["input_ids"]) for row in rows)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])

    def column(name: str, fill: int) -> Tensor:
        return torch.tensor([row[name] + [fill] * (length - len(row[name])) for row in rows])

    return {
        "input_ids": column("input_ids", 0),
        "labels": column("labels", -100),
        "attention_mask": (torch.arange(length) < lengths.unsqueeze(1)).long(),
    }


class _InOrder(Trainer):
    """The rows as they come."""

    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


class _Losses(TrainerCallback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.values.append(logs["loss"])


def by_the_trainer(settings: FinetuneConfig, data: TrainingData) -> tuple[list[float], Any]:
    """SFT, or LoRA by peft, in float32 by transformers' Trainer on the CPU: the loss of each
    update, the model."""
    steps, accumulation = settings.steps(1), settings.accumulation_interval
    model = AutoModelForCausalLM.from_pretrained(settings.model.path, dtype=torch.float32)
    if (lora := settings.method.lora) is not None:
        torch.manual_seed(mixed_seed(settings.seed, 2))
        options = peft.LoraConfig(
            r=lora.rank,
            lora_alpha=int(lora.alpha),
            target_modules="all-linear",
            use_rslora=lora.rslora,
        )
        model = peft.get_peft_model(model, options)
    losses = _Losses()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _InOrder(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=settings.effective_batch(1) // accumulation,
                gradient_accumulation_steps=accumulation,
                max_steps=steps,
                learning_rate=settings.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=math.ceil(settings.warmup_ratio * steps),
                optim="adamw_torch_fused",
                weight_decay=settings.weight_decay,
                max_grad_norm=settings.clip_norm,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=[row for rows in updates_of(settings, data) for row in rows],
            data_collator=_padded,
            callbacks=[losses],
        ).train()
    return losses.values, model


def by_sorting(settings: FinetuneConfig, data: TrainingData) -> tuple[list[float], Any]:
    """GMT by AdamW, one example at a time, every gradient sorted: the losses, the model."""
    model, _ = load_model(settings.model, torch.device("cpu"))
    optimizer = torch.optim.AdamW(
        model.parameters(), weight_decay=settings.weight_decay, fused=True
    )
    steps, losses = settings.steps(1), []
    for update, rows in enumerate(updates_of(settings, data)):
        losses.append(_accumulated(model, rows))
        if settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        for parameter in model.parameters():
            _mask_(parameter.grad, settings.method.mask_ratio)
        optimizer.param_groups[0]["lr"] = learning_rate(
            update, steps=steps, peak=settings.learning_rate, warmup_ratio=settings.warmup_ratio
        )
        optimizer.step()
        optimizer.zero_grad()
    return losses, model


def _accumulated(model: Any, rows: list[Row]) -> float:
    """Add up the gradients of the mean loss over all target tokens, and return that loss."""
    targets = sum(label != -100 for row in rows for label in row["labels"][1:])
    total = 0.0
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(row["labels"][1:])
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / targets
        loss.backward()
        total += loss.item()
    return total


def _mask_(gradient: Tensor, ratio: float) -> None:
    size = gradient.abs()
    kept = size.numel() - math.floor(Fraction(str(ratio)) * size.numel())
    threshold = size.flatten().sort(descending=True).values[kept - 1]
    gradient[size < threshold] = 0
