"""Tokens per second and peak memory against transformers' Trainer and TRL's SFTTrainer.

    python benchmarks/finetune_throughput.py --folder benchmarks/records/<date>_<name>

One machine, one model, the same examples; the trainers take turns (A, B, C, A, B, C, ...). A
token counts when it belongs to an example: padding does not. CPU seconds stand beside wall
seconds, since they are what a shared machine does not blur.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from finetune_peers import labelled
from made_up_world import save_world
from resident_memory import peak_growth
from transformers import AutoModelForCausalLM

from sweeps.finetune.data import TrainingData, load_training_data
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.model import load_model
from sweeps.finetune.process_group import Group
from sweeps.finetune.trainer import Trainer

MAX_LENGTH, EXAMPLES = 256, 512
SHAPE = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
ROWS, ACCUMULATION = 4, 2  # an update sees 8 examples
UPDATES_OF_MEMORY = 6  # enough to meet a long batch
PACKS = 2  # TRL's packed rows of MAX_LENGTH tokens: about 8 examples too
TRAINERS = ("ours", "transformers", "trl", "ours_packed", "trl_packed", "ours_gmt")


@dataclass(frozen=True)
class Spent:
    """What some updates took: real tokens, wall and CPU seconds."""

    tokens: int
    wall: float
    cpu: float


class Clock:
    """Seconds since the last look."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def spent(self, tokens: int) -> Spent:
        """What `tokens` took since the beginning."""
        return Spent(tokens, time.perf_counter() - self._wall, time.process_time() - self._cpu)


def save_examples(world: Path) -> None:
    """A Llama of 8.4 million parameters, and short examples of unequal length."""
    draw = torch.Generator().manual_seed(1)
    lengths = torch.empty(EXAMPLES).log_normal_(4.0, 0.5, generator=draw).clamp(16, 200).int()
    save_world(world, SHAPE, context=MAX_LENGTH, lengths=lengths.tolist())


def config(world: Path, *, packing: bool, mask_ratio: float = 0.0) -> FinetuneConfig:
    """Our run, long enough for any number of updates."""
    place = str(world / "train.jsonl")
    mini, interval = (ROWS * ACCUMULATION, 1) if packing else (ROWS, ACCUMULATION)
    return FinetuneConfig.model_validate(
        {
            "model": {"path": str(world / "model"), "dtype": "float32"},
            "data": {"path": place, "max_length": MAX_LENGTH, "packing": packing},
            "method": {"name": "gmt" if mask_ratio else "sft", "mask_ratio": mask_ratio},
            "batch": {"mini_batch": mini},
            "accumulation_interval": interval,
            "learning_rate": 1e-5,
            "examples": 10_000 * mini * interval,
            "evaluation": {
                "benchmarks": [{"name": "exact_match", "validation": place, "test": place}]
            },
        }
    )


def ours(world: Path, *, packing: bool, mask_ratio: float = 0.0) -> Callable[[int], Spent]:
    """Our trainer, which goes on where it stopped."""
    device = torch.device("cpu")
    settings = config(world, packing=packing, mask_ratio=mask_ratio)
    model, tokenizer = load_model(settings.model, device)
    data = load_training_data(settings.data, tokenizer)
    trainer = Trainer(settings, model, data, Group(), device)
    done = 0

    def updates(count: int) -> Spent:
        nonlocal done
        clock = Clock()
        for _ in range(count):
            trainer.update(done)
            done += 1
        # The order is a function of the update, so the tokens can be counted afterwards.
        batches = [trainer._order.batch(u, trainer._batch) for u in range(done - count, done)]
        return clock.spent(sum(data.size(batch) for batch in batches))

    return updates


def tokenised(world: Path) -> list[dict[str, list[int]]]:
    """The examples' ids as the peers want them."""
    settings = config(world, packing=False)
    _, tokenizer = load_model(settings.model, torch.device("cpu"))
    data: TrainingData = load_training_data(settings.data, tokenizer)
    rows = [labelled(data, place) for place in range(len(data))]
    return [{**r, "completion_mask": [int(label >= 0) for label in r["labels"]]} for r in rows]


def arguments(steps: int, rows: int, accumulation: int, folder: str) -> dict[str, Any]:
    """The same optimizer, schedule and clipping for the peers."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": accumulation,
        "max_steps": steps,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "cosine",
        "optim": "adamw_torch_fused",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "bf16": False,
        "gradient_checkpointing": False,
    }


def peer(world: Path, *, trl: bool, packing: bool = False) -> Callable[[int], Spent]:
    """A new trainer each time it is asked (it cannot be stepped); its first update is left out."""
    from datasets import Dataset
    from transformers import (
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        TrainerCallback,
        TrainingArguments,
    )
    from transformers import Trainer as Plain

    rows = tokenised(world)
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    model = AutoModelForCausalLM.from_pretrained(world / "model", dtype=torch.float32)
    columns = ("input_ids", "completion_mask") if trl else ("input_ids", "labels")
    dataset = Dataset.from_list([{name: row[name] for name in columns} for row in rows])
    size, accumulation = (PACKS, 1) if packing else (ROWS, ACCUMULATION)

    class Watch(TrainerCallback):
        def __init__(self) -> None:
            self.clock, self.tokens, self.counting = Clock(), 0, False

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if not self.counting:
                self.counting, self.tokens = True, 0
                self.clock.start()

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.spent = self.clock.spent(self.tokens)

    def updates(count: int) -> Spent:
        watch = Watch()
        with tempfile.TemporaryDirectory() as folder:
            options = arguments(count + 1, size, accumulation, folder)
            if trl:
                from trl import SFTConfig, SFTTrainer

                options |= {"max_length": MAX_LENGTH, "packing": packing}
                made: Any = SFTTrainer(
                    model=model,
                    args=SFTConfig(completion_only_loss=True, **options),
                    train_dataset=dataset,
                    processing_class=tokenizer,
                    callbacks=[watch],
                )
            else:
                made = Plain(
                    model=model,
                    args=TrainingArguments(**options),
                    train_dataset=dataset,
                    data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
                    callbacks=[watch],
                )
            collate: Callable[[Any], dict[str, Any]] = made.data_collator

            def counted(features: list[dict[str, Any]]) -> dict[str, Any]:
                watch.tokens += sum(len(feature["input_ids"]) for feature in features)
                return collate(features)

            made.data_collator = counted
            made.train()
        return watch.spent

    return updates


def build(name: str, world: Path) -> Callable[[int], Spent]:
    """The trainer of that name: call it with a number of updates."""
    match name:
        case "transformers":
            return peer(world, trl=False)
        case "trl" | "trl_packed":
            return peer(world, trl=True, packing=name == "trl_packed")
        case "ours_gmt":
            return ours(world, packing=False, mask_ratio=0.4)
        case _:
            return ours(world, packing=name == "ours_packed")


def peak_memory(name: str, world: str, threads: int, box: Any) -> None:
    """In a process of its own: how far training rises above the loaded model, in MiB."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    updates = build(name, Path(world))
    box.put(peak_growth(lambda: updates(UPDATES_OF_MEMORY)))


def measure(options: argparse.Namespace) -> None:
    """Let them take turns, then look at the memory of each, and write the record."""
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    names = options.trainers
    with tempfile.TemporaryDirectory() as temporary:
        world = Path(temporary)
        save_examples(world)
        trainers = {name: build(name, world) for name in names}
        taken: dict[str, list[Spent]] = {name: [] for name in names}
        for updates in trainers.values():
            updates(1)
        for turn in range(options.rounds):
            for name, updates in trainers.items():
                taken[name].append(updates(options.updates))
                spent = taken[name][-1]
                print(turn, name, f"{spent.tokens / spent.wall:.0f} tokens/s", flush=True)
        memory: dict[str, float] = {}
        if options.memory:
            memory = {name: _in_a_process(name, world, options.threads) for name in names}
    write(options.folder, taken, memory)


def _in_a_process(name: str, world: Path, threads: int) -> float:
    context = multiprocessing.get_context("spawn")
    box = context.Queue()
    process = context.Process(target=peak_memory, args=(name, str(world), threads, box))
    process.start()
    mebibytes = float(box.get())
    process.join()
    return mebibytes


def write(folder: Path, taken: dict[str, list[Spent]], memory: dict[str, float]) -> None:
    """Every round as CSV, and the summary as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "rounds.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["trainer", "round", "tokens", "wall_seconds", "cpu_seconds"])
        for name, rounds in taken.items():
            for number, spent in enumerate(rounds):
                writer.writerow(
                    [name, number, spent.tokens, round(spent.wall, 4), round(spent.cpu, 4)]
                )
    summary = {
        name: {
            "tokens_per_second_best": max(s.tokens / s.wall for s in rounds),
            "tokens_per_second_median": statistics.median(s.tokens / s.wall for s in rounds),
            "tokens_per_cpu_second_median": statistics.median(s.tokens / s.cpu for s in rounds),
            "peak_memory_above_model_mib": memory.get(name),
        }
        for name, rounds in taken.items()
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trainers", nargs="+", choices=TRAINERS, default=list(TRAINERS))
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    measure(parser.parse_args())
